//! The tree, built from entries that a test makes up.

use super::*;
use crate::mount::fake::{Fake, entry, file, sparse};
use crate::wire::entry::EntryId;

fn view(entries: Vec<Entry>) -> Result<View> {
    View::new(Arc::new(Fake::new(entries, 1000, 100)))
}

fn walk(view: &View, path: &str) -> Result<Ino, Fault> {
    path.split('/').try_fold(Ino::ROOT, |folder, name| view.lookup(folder, name.as_bytes()))
}

fn names(view: &View, folder: Ino) -> Vec<String> {
    view.list(folder, 0).unwrap().map(|entry| String::from_utf8_lossy(entry.name).into_owned()).collect()
}

#[test]
fn entries_are_found_by_path_and_listed_in_the_archives_order() {
    let view = view(vec![
        entry("", Kind::Directory),
        file("z", 0, 10),
        entry("dir", Kind::Directory),
        file("dir/b", 10, 20),
        file("dir/a", 30, 0),
        entry("dir/sub", Kind::Directory),
        entry("link", Kind::Symlink { target: b"dir/a".to_vec() }),
    ])
    .unwrap();
    assert_eq!(names(&view, Ino::ROOT), [".", "..", "z", "dir", "link"]);
    let dir = walk(&view, "dir").unwrap();
    assert_eq!(names(&view, dir), [".", "..", "b", "a", "sub"]);
    assert_eq!(view.attr(walk(&view, "dir/b").unwrap()).unwrap().size, 20);
    assert_eq!(view.attr(dir).unwrap().links, 3);
    assert_eq!(view.attr(Ino::ROOT).unwrap().links, 3);
    assert_eq!(view.readlink(walk(&view, "link").unwrap()).unwrap(), b"dir/a");
    assert_eq!(walk(&view, "dir/sub/..").unwrap(), dir);
    assert_eq!(walk(&view, "..").unwrap(), Ino::ROOT);
    assert!(matches!(walk(&view, "dir/c"), Err(Fault::NoEntry)));
    assert!(matches!(walk(&view, "z/c"), Err(Fault::NotDirectory)));
    assert!(matches!(view.content(dir), Err(Fault::IsDirectory)));
    assert!(matches!(view.attr(Ino(999)), Err(Fault::NoEntry)));
    assert!(matches!(view.attr(Ino(0)), Err(Fault::NoEntry)));
    assert_eq!(view.totals(), Totals { nodes: 7, bytes: 30 });
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    let entries = (0..50).map(|i| file(&format!("{i:02}"), 0, 1)).collect();
    let view = view(entries).unwrap();
    for from in 0..=60u64 {
        let rest: Vec<_> = view.list(Ino::ROOT, from).unwrap().collect();
        assert_eq!(rest.len() as u64, 52u64.saturating_sub(from));
        if let Some(first) = rest.first() {
            assert_eq!(first.next, from + 1);
            assert_eq!(view.lookup(Ino::ROOT, first.name).unwrap(), first.ino);
        }
    }
    assert_eq!(view.list(Ino::ROOT, u64::MAX).unwrap().count(), 0);
}

#[test]
fn folders_without_entry_and_folders_that_come_late_are_there() {
    let view =
        view(vec![file("a/b/c", 0, 1), file("x/y", 1, 1), entry("x", Kind::Directory), file("a/d", 2, 1)])
            .unwrap();
    assert_eq!(names(&view, Ino::ROOT), [".", "..", "x", "a"]);
    assert_eq!(names(&view, walk(&view, "a").unwrap()), [".", "..", "d", "b"]);
    assert_eq!(view.attr(walk(&view, "x").unwrap()).unwrap().uid, 7);
    assert_eq!(view.attr(walk(&view, "a/b").unwrap()).unwrap().mode, 0o755);
    assert!(walk(&view, "a/b/c").is_ok());
    assert!(walk(&view, "x/y").is_ok());
}

#[test]
fn hardlinks_share_inode_size_and_count() {
    let link = |path| entry(path, Kind::Hardlink { target: EntryId(1) });
    let view =
        view(vec![entry("d", Kind::Directory), file("d/one", 5, 7), link("two"), link("d/three")]).unwrap();
    let one = walk(&view, "d/one").unwrap();
    for path in ["two", "d/three"] {
        assert_eq!(walk(&view, path).unwrap(), one);
    }
    let attr = view.attr(one).unwrap();
    assert_eq!((attr.links, attr.size), (3, 7));
    let listed = view.list(Ino::ROOT, 0).unwrap().find(|entry| entry.name == b"two").unwrap();
    assert_eq!((listed.ino, listed.kind), (one, FileKind::File));
    assert_eq!(view.totals(), Totals { nodes: 3, bytes: 7 });
}

#[test]
fn names_of_any_bytes_are_found() {
    let odd: [&[u8]; 5] = [b"\xff\xfe", b"new\nline", b" ", b"\\", &[b'n'; 255]];
    let entries = odd.iter().map(|name| Entry { path: name.to_vec(), ..file("", 0, 1) }).collect();
    let view = view(entries).unwrap();
    for name in odd {
        assert!(view.lookup(Ino::ROOT, name).is_ok());
    }
    assert!(matches!(view.lookup(Ino::ROOT, &[b'n'; 300]), Err(Fault::NoEntry)));
}

#[test]
fn blocks_leave_holes_out() {
    let view = view(vec![sparse("s", 1 << 40, &[(0, 0, 100), (1 << 30, 100, 900)])]).unwrap();
    let attr = view.attr(walk(&view, "s").unwrap()).unwrap();
    assert_eq!((attr.size, attr.blocks), (1 << 40, 2));
}

#[test]
fn entries_that_contradict_each_other_are_refused() {
    let link = |target| entry("l", Kind::Hardlink { target: EntryId(target) });
    for bad in [
        vec![file("a", 0, 1), file("a", 1, 1)],
        vec![file("a", 0, 1), file("a/b", 1, 1)],
        vec![file("a/b", 0, 1), file("a", 1, 1)],
        vec![file("", 0, 1)],
        vec![file("a//b", 0, 1)],
        vec![file("a/../b", 0, 1)],
        vec![link(0)],
        vec![entry("d", Kind::Directory), link(0)],
        vec![link(9)],
        vec![entry("", Kind::Directory), entry("", Kind::Directory)],
    ] {
        assert!(matches!(view(bad), Err(Error::Inconsistent { .. })));
    }
}

#[test]
fn a_hundred_thousand_names_are_all_found() {
    let mut entries = Vec::new();
    for folder in 0..100 {
        entries.push(entry(&format!("d{folder}"), Kind::Directory));
        entries.extend((0..1000).map(|i| file(&format!("d{folder}/f{i}"), 0, 1)));
    }
    let view = view(entries).unwrap();
    for folder in 0..100 {
        for i in (0..1000).step_by(7) {
            assert!(walk(&view, &format!("d{folder}/f{i}")).is_ok());
        }
        assert!(matches!(walk(&view, &format!("d{folder}/f1000")), Err(Fault::NoEntry)));
    }
}
