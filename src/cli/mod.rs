//! The command line: flags to calls of the library, and printing.
//!
//! One file per command. A command gives an `Outcome` or an error; messages go to standard error,
//! what was asked for to standard output, where a closed pipe is no error.

mod append;
mod args;
mod bench;
mod cat;
mod chunks;
mod completions;
mod console;
#[cfg(feature = "train")]
mod curves;
mod destination;
mod devices;
mod diff;
mod entries;
mod exit;
mod info;
mod ls;
mod man;
mod merge;
mod model;
mod models;
mod mount;
mod outcome;
mod output;
mod pack;
mod salvage;
mod serve;
mod signals;
mod standard;
mod svg;
mod take;
mod tar;
mod train;
mod tree;
mod umount;
mod unpack;
mod verify;

use std::io::Write;

use args::Global;
use clap::{CommandFactory, Parser, Subcommand};
use console::Console;
use outcome::Outcome;

use crate::archive::observer::{Observer, Warning};
use crate::codec::choice;
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;

/// Archives with the size of a strong solid compressor, readable at random.
#[derive(Debug, Parser)]
#[command(name = "s3a", version, about, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_alias = "create")]
    Pack(pack::Args),
    Append(append::Args),
    Merge(merge::Args),
    #[command(visible_alias = "extract", visible_alias = "x")]
    Unpack(unpack::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Cat(cat::Args),
    Info(info::Args),
    Diff(diff::Args),
    #[command(visible_alias = "check")]
    Verify(verify::Args),
    Salvage(salvage::Args),
    Serve(serve::Args),
    Mount(mount::Args),
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    Train(train::Args),
    Model(model::Args),
    Bench(bench::args::Args),
    Completions(completions::Args),
    Man(man::Args),
}

const EXIT_CODES: &str = "\
Exit codes:
    0  everything done                       7  input or output failed
    1  done, with warnings                   8  the format version or a feature is not supported
    2  wrong usage                          11  the destination exists
    3  the archive is damaged or cut short  70  internal error
    4  the model is missing or differs     130  interrupted
    5  an unsafe entry was refused
    6  a limit was exceeded";

/// Runs the command that the process was started with, and gives its exit code. Whether standard input and output were
/// closed when it began cannot be seen later.
pub fn run(no_stdin: bool, no_stdout: bool) -> u8 {
    standard::note_closed(no_stdin, no_stdout);
    let cli = match Cli::try_parse_from(with_mount_link(std::env::args_os())) {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() => {
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(2);
        }
        // Help and version.
        Err(e) => return print_asked(&e),
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err((e, console)) => {
            console.error(&e);
            exit::code(&e)
        }
    }
}

/// Prints what clap has to tell to standard output.
fn print_asked(asked: &clap::Error) -> u8 {
    // It prints by itself, with colors on a terminal.
    let print = || asked.print().and_then(|()| std::io::stdout().flush());
    let printed = standard::check_stdout().and_then(|()| print().map_err(|e| Error::io(standard::STDOUT, e)));
    match printed {
        Err(e) if !output::is_closed_pipe(&e) => {
            let _ = writeln!(std::io::stderr(), "s3a: {e}");
            exit::code(&e)
        }
        _ => 0,
    }
}

fn dispatch(cli: Cli) -> Result<u8, (Error, Console)> {
    let console = Console::new(&cli.global);
    let result = match &cli.command {
        // The daemon is started before threads and signal handlers.
        Command::Mount(args) => mount::run(args, &cli.global, &console),
        other => prepare(other, &cli.global, &console).and_then(|()| command(other, &cli.global, &console)),
    };
    console.finish();
    for warning in Backend::warnings() {
        console.warning(Warning::new("kernels", warning));
    }
    if let Some(warning) = choice::chosen().and_then(|offload| offload.warning()) {
        console.warning(Warning::new("device", warning));
    }
    match result {
        Ok(Outcome::Done) => Ok(u8::from(console.warned())),
        Ok(Outcome::Code(code)) => Ok(code),
        Err(e) if output::is_closed_pipe(&e) => Ok(0),
        Err(e) => Err((e, console)),
    }
}

/// Whether a command may have work for a device, which is started for it.
fn decodes(command: &Command) -> bool {
    !matches!(
        command,
        Command::Ls(_)
            | Command::Info(_)
            | Command::Umount(_)
            | Command::Model(_)
            | Command::Completions(_)
            | Command::Man(_)
    )
}

fn prepare(command: &Command, global: &Global, console: &Console) -> Result<()> {
    if !matches!(command, Command::Train(_)) {
        let choice = global.check_device()?;
        if decodes(command) {
            choice::choose(choice)?;
        }
    }
    signals::install(&console.interrupt())?;
    global.start_threads()
}

fn command(command: &Command, global: &Global, console: &Console) -> Result<Outcome> {
    match command {
        Command::Pack(args) => pack::run(args, global, console),
        Command::Append(args) => append::run(args, global, console),
        Command::Merge(args) => merge::run(args, console),
        Command::Unpack(args) => unpack::run(args, console),
        Command::Ls(args) => ls::run(args, console),
        Command::Cat(args) => cat::run(args, console),
        Command::Info(args) => info::run(args, console),
        Command::Verify(args) => verify::run(args, console),
        Command::Salvage(args) => salvage::run(args, global, console),
        Command::Serve(args) => serve::run(args, console),
        Command::Umount(args) => umount::run(args),
        Command::Train(args) => train::run(args, global, console),
        Command::Model(args) => model::run(args),
        Command::Bench(args) => bench::run(args, global, console),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
        Command::Diff(args) => diff::run(args, console),
        Command::Mount(_) => Err(Error::Internal("mount is dispatched before")),
    }
}

/// Lets a link called `mount.s3a` serve mount(8), which calls it with an archive, a folder and `-o`.
fn with_mount_link(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut args: Vec<_> = args.collect();
    let called = args.first().map(std::path::PathBuf::from);
    if called.and_then(|path| path.file_name().map(|name| name == "mount.s3a")).unwrap_or(false) {
        args.insert(1, "mount".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_link_called_mount_s3a_mounts() {
        let args = |list: &[&str]| with_mount_link(list.iter().map(Into::into));
        assert_eq!(
            args(&["/sbin/mount.s3a", "a.s3a", "/mnt"]),
            ["/sbin/mount.s3a", "mount", "a.s3a", "/mnt"]
        );
        assert_eq!(args(&["s3a", "ls"]), ["s3a", "ls"]);
    }
}
