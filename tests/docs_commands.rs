//! Every command in the documents is run here, or the document says why not.
//!
//! A block of shell (```` ```sh ````) is run by bash as it stands, with `s3a` on PATH, in a
//! directory of its own with a small tree; the first command that fails ends it. Absolute paths
//! such as `/backup` lie in that directory too, and `ssh` runs its command beside it. Comments
//! before a block, which a rendered page does not show, say what else there is to know:
//!
//! | comment | meaning |
//! | --- | --- |
//! | `<!-- before: COMMANDS -->` | what the text before the block supposes; run first |
//! | `<!-- each line alone -->` | the lines are alternatives; each begins anew |
//! | `<!-- ends with: CODE -->` | the exit code, where it is not 0 |
//! | `<!-- needs: THING -->` | is run where there is `fuse`, a program, or a file of the source |
//! | `<!-- not run: REASON -->` | is not run anywhere |
//!
//! A line with a comment "where PROGRAM is installed" is run where it is. What is not run, and
//! every command in the text, is held against the command's `--help`.
#![cfg(feature = "cli")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{noise, prose, put};

/// A block of shell and what the comments before it say.
#[derive(Default)]
struct Block {
    line: usize,
    before: String,
    each_line_alone: bool,
    code: i32,
    needs: Vec<String>,
    not_run: Option<String>,
    lines: Vec<String>,
}

/// A document: its blocks of shell, and the commands that its text names.
struct Document {
    name: String,
    blocks: Vec<Block>,
    inline: Vec<(usize, String)>,
}

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Document {
    /// The document of that name; `None` where the source was packed without it.
    fn read(name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(source().join(name)).ok()?;
        let mut document = Self { name: name.into(), blocks: Vec::new(), inline: Vec::new() };
        let (mut open, mut next) = (None::<(bool, Block)>, Block::default());
        for (line, number) in text.lines().zip(1..) {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                match open.take() {
                    Some((true, block)) => document.blocks.push(block),
                    Some((false, _)) => {}
                    None => {
                        let is_shell = shell(kind).unwrap_or_else(|| {
                            panic!("{name}:{number}: a block needs its language; {kind:?} is not known")
                        });
                        open = Some((is_shell, Block { line: number, ..std::mem::take(&mut next) }));
                    }
                }
            } else if let Some((_, block)) = &mut open {
                block.lines.push(line.into());
            } else if let Some(comment) = line.strip_prefix("<!--") {
                let comment = comment.strip_suffix("-->").unwrap_or_else(|| panic!("{name}:{number}")).trim();
                assert!(next.takes(comment), "{name}:{number}: what does {comment:?} mean?");
            } else if !line.trim().is_empty() {
                let indented = line.strip_prefix("    ").unwrap_or_default();
                let is_command = ["s3a ", "cargo ", "fuzz/", "tests/", "python3 "].iter();
                assert!(
                    !is_command.clone().any(|word| indented.starts_with(word)),
                    "{name}:{number}: a command that is indented is not seen; it goes into a block of sh"
                );
                next = Block::default();
                let spans = line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("s3a "));
                document.inline.extend(spans.map(|span| (number, span.to_owned())));
            }
        }
        assert!(open.is_none(), "{name}: a block does not end");
        Some(document)
    }
}

/// Whether blocks of that language hold commands; `None` for a language that is not known here.
fn shell(language: &str) -> Option<bool> {
    match language.split(',').next().unwrap_or_default() {
        "sh" | "console" => Some(true),
        "text" | "rust" | "fstab" | "yaml" | "json" | "toml" | "c" | "python" => Some(false),
        _ => None,
    }
}

impl Block {
    fn takes(&mut self, comment: &str) -> bool {
        if comment == "each line alone" {
            self.each_line_alone = true;
        } else if let Some(commands) = comment.strip_prefix("before: ") {
            self.before.push_str(commands);
            self.before.push('\n');
        } else if let Some(code) = comment.strip_prefix("ends with: ") {
            self.code = code.parse().unwrap();
        } else if let Some(things) = comment.strip_prefix("needs: ") {
            self.needs.extend(things.split(", ").map(str::to_owned));
        } else if let Some(reason) = comment.strip_prefix("not run: ").filter(|reason| !reason.is_empty()) {
            self.not_run = Some(reason.into());
        } else {
            return false;
        }
        true
    }

    /// Lines as a shell takes them: one that ends in a backslash goes on in the next.
    fn commands(&self) -> Vec<(usize, String)> {
        let mut commands: Vec<(usize, String)> = Vec::new();
        let mut goes_on = false;
        for (line, number) in self.lines.iter().zip(self.line + 1..) {
            match commands.last_mut() {
                Some((_, command)) if goes_on => command.extend(["\n", line]),
                _ => commands.push((number, line.clone())),
            }
            goes_on = line.ends_with('\\');
        }
        commands.retain(|(_, command)| !command.trim().is_empty());
        commands
    }

    fn run(&self, document: &str) {
        let at = |line: usize| format!("{document}:{line}");
        if let Some(reason) = &self.not_run {
            println!("skipped: {} ({reason})", at(self.line));
            return;
        }
        if let Some(thing) = self.needs.iter().find(|thing| !is_there(thing)) {
            println!("skipped: {} (there is no {thing})", at(self.line));
            return;
        }
        let mut commands = self.commands();
        commands.retain(|(line, command)| match where_installed(command) {
            Some(program) if !is_there(program) => {
                println!("skipped: {} ({program} is not installed)", at(*line));
                false
            }
            _ => true,
        });
        if self.each_line_alone {
            commands.iter().for_each(|(line, command)| Place::new().run(&at(*line), self, command));
        } else {
            let script: Vec<_> = commands.into_iter().map(|(_, command)| command).collect();
            Place::new().run(&at(self.line), self, &script.join("\n"));
        }
    }
}

/// The program that a line's comment says may be missing.
fn where_installed(command: &str) -> Option<&str> {
    let comment = command.rsplit_once(" # ")?.1;
    comment.split_once("where ")?.1.split_once(" is installed").map(|(program, _)| program)
}

fn is_there(thing: &str) -> bool {
    if thing == "fuse" {
        let root = rustix::process::geteuid().is_root();
        return cfg!(feature = "mount")
            && std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
            && (root || is_there("fusermount3"));
    }
    if thing.contains('/') {
        return source().join(thing).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(thing).is_file())
}

/// A directory with what the documents speak of.
struct Place {
    root: tempfile::TempDir,
}

/// What the documents have at the root of a machine.
const ABSOLUTE: [&str; 5] = ["/backup", "/shared", "/data/tree", "/data/logs", "/home/me"];

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (at, work) = (root.path(), root.path().join("work"));
        for tree in ["work/notes", "data/tree", "home/me"] {
            let tree = at.join(tree);
            put(&tree, b"b.md", &prose(2, 1500));
            put(&tree, b"c.md", &[&prose(3, 700)[..], b" and a word\n"].concat());
            put(&tree, b"today.md", &prose(4, 300));
            put(&tree, b"letters/one.md", &prose(5, 900));
            put(&tree, b"letters/two.txt", &prose(6, 400));
            put(&tree, b"more/a.o", &noise(7, 300));
            put(&tree, b"a.md", &prose(1, 2000));
        }
        // Long enough for a part of it at 1 MiB; all but its beginning is a hole.
        let long = std::fs::File::options().write(true).open(work.join("notes/a.md")).unwrap();
        long.set_len((1 << 20) + 5000).unwrap();
        put(&work, b"letters/one.md", &prose(5, 900));
        put(&work, b"photos/one.raw", &noise(8, 3000));
        put(&work, b"more/new.md", &prose(9, 500));
        put(&work, b"src/main.rs", b"fn main() {\n    println!(\"one word\");\n}\n");
        put(&work, b"src/lib/word.rs", &prose(10, 800));
        put(&work, b"patterns.txt", b"*.o\n");
        put(at, b"data/logs/today.log", &prose(11, 500));
        for directory in ["backup", "shared", "host", "bin"] {
            std::fs::create_dir(at.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_s3a"), at.join("bin/s3a")).unwrap();
        let ssh = at.join("bin/ssh");
        std::fs::write(&ssh, "#!/bin/sh\nshift\ncd ../host && exec sh -c \"$*\"\n").unwrap();
        std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { root }
    }

    /// `text` with the absolute paths of the documents below the place's root.
    fn placed(&self, text: &str) -> String {
        let mut placed = text.to_owned();
        for path in ABSOLUTE {
            for before in [' ', '"', '\'', '='] {
                let here = format!("{before}{}{path}", self.root.path().display());
                placed = placed.replace(&format!("{before}{path}"), &here);
            }
        }
        placed
    }

    fn run(&self, at: &str, block: &Block, script: &str) {
        let root = self.root.path();
        let script = format!("set -euo pipefail\n{}{}\n", self.placed(&block.before), self.placed(script));
        let said = root.join("said");
        let log = std::fs::File::create(&said).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [root.join("bin")].into_iter().chain(std::env::split_paths(&path));
        let mut bash = Command::new("timeout");
        bash.args(["-k", "5", "300", "bash", "-c", &script]).current_dir(root.join("work"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("S3A_") {
                bash.env_remove(name);
            }
        }
        bash.env("PATH", std::env::join_paths(path).unwrap()).env("HOME", root.join("home"));
        bash.env("SOURCE", source()).env("NO_COLOR", "1");
        bash.env_remove("SOURCE_DATE_EPOCH").env_remove("XDG_DATA_HOME").env_remove("XDG_CACHE_HOME");
        // A daemon that outlives the script would hold a pipe open; a file it may.
        bash.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let status = bash.status().unwrap();
        let said = String::from_utf8_lossy(&std::fs::read(said).unwrap()).into_owned();
        let ended = status.code() == Some(block.code);
        if !ended {
            let _ = Command::new(env!("CARGO_BIN_EXE_s3a"))
                .args(["umount", "--lazy"])
                .arg(root.join("work/mnt"))
                .stderr(Stdio::null())
                .status();
        }
        assert!(ended && !said.contains("panicked"), "{at}: {status}\n{script}\n{said}");
    }
}

/// What `--help` says of each command, asked once.
#[derive(Default)]
struct Help(BTreeMap<Vec<String>, Option<String>>);

impl Help {
    fn of(&mut self, words: &[&str]) -> Option<&str> {
        let key = words.iter().map(|&word| word.to_owned()).collect();
        let help = self.0.entry(key).or_insert_with(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_s3a"));
            let output = command.args(words).arg("--help").output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        help.as_deref()
    }

    /// Fails unless the first use of s3a in `command` names a command that there is and options
    /// that it has.
    fn check(&mut self, at: &str, command: &str) {
        let ends = |word: &&str| !["|", "||", "&&", "&", ";", "#", ">"].contains(word);
        let mut words = command.split_whitespace().skip_while(|word| word.trim_matches('\'') != "s3a");
        let words: Vec<&str> = words.by_ref().skip(1).take_while(ends).filter(|&word| word != "\\").collect();
        let Some(&name) = words.first() else { return };
        if name.starts_with('-') || name == "..." || name.chars().all(|c| c.is_ascii_uppercase()) {
            return;
        }
        let nested = name == "model" && words.len() > 1;
        let named = &words[..if nested { 2 } else { 1 }];
        let help = self.of(named).unwrap_or_else(|| panic!("{at}: there is no command {named:?}"));
        let known: BTreeSet<&str> = help.split(|c: char| c.is_whitespace() || ",=[".contains(c)).collect();
        for word in &words[named.len()..] {
            let option = match word.split(['=', '\'', ')']).next().unwrap_or_default() {
                long if long.starts_with("--") && long.len() > 2 => long,
                short if short.starts_with('-') && !short.starts_with("--") && short.len() > 1 => &short[..2],
                _ => continue,
            };
            assert!(known.contains(option), "{at}: {named:?} has no option {option}");
        }
    }
}

/// Runs what can be run of a document, and holds its commands against their help.
fn hold(name: &str) {
    let Some(document) = Document::read(name) else {
        println!("skipped: {name} (this source was packed without it)");
        return;
    };
    let mut help = Help::default();
    for (line, command) in &document.inline {
        help.check(&format!("{name}:{line}"), command);
    }
    for block in &document.blocks {
        for (line, command) in block.commands() {
            help.check(&format!("{name}:{line}"), &command);
        }
    }
    document.blocks.iter().for_each(|block| block.run(&document.name));
}

fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

macro_rules! documents {
    ($($name:ident $path:literal)*) => {
        $(#[test]
        fn $name() {
            hold($path);
        })*

        /// All that are not named here have no blocks of shell.
        #[test]
        fn every_document_with_commands_is_held() {
            let (mut found, mut help) = (Vec::new(), Help::default());
            documents(source(), &mut found);
            for path in found {
                let name = path.strip_prefix(source()).unwrap().to_str().unwrap();
                if ![$($path),*].contains(&name) {
                    let document = Document::read(name).unwrap();
                    assert!(document.blocks.is_empty(), "{name} has commands, and no test here");
                    // The changelog speaks of what was, too.
                    for (line, command) in document.inline.iter().filter(|_| name != "CHANGELOG.md") {
                        help.check(&format!("{name}:{line}"), command);
                    }
                }
            }
        }
    };
}

documents! {
    the_readme "README.md"
    the_guide "docs/guide.md"
    the_page_on_models "docs/models.md"
    the_page_on_mounts "docs/mount.md"
    the_page_on_the_format "docs/format.md"
    the_page_on_clusters "docs/cluster.md"
    the_page_on_remote_archives "docs/remote.md"
    the_page_on_security "SECURITY.md"
    the_page_for_contributors "CONTRIBUTING.md"
    the_page_on_fuzzing "fuzz/README.md"
    the_report_on_gpus "docs/research/gpu.md"
    the_report_on_kernels "docs/research/kernels.md"
    the_report_on_the_paper "docs/research/paper.md"
    the_report_on_training "docs/research/training.md"
}
