//! What the members of a tar stream make of an empty directory, one after the other, as GNU tar extracts them.
//!
//! A member takes the place of what has its path, but not of a directory with something in it. A hardlink is
//! another name of what its target is at that point. Members below a symlink go where it leads, if it is relative and has
//! no `..` in it; other symlinks count when everything is extracted, so that nothing goes through them. Paths are
//! remembered by hash, so that a million of them cost little.

use std::collections::{HashMap, HashSet};

use crate::archive::path::{check, escape, join, split};
use crate::archive::path_set::key;
use crate::archive::tar::read::{Member, MemberKind};
use crate::wire::limits;

/// How many symlinks a path may lead through, as for Linux.
const FOLLOWED: u32 = 40;

/// What a path is.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// A directory, with the number of names in it and of the member that made it, if one did.
    Folder { names: u32, member: Option<u64> },
    /// A name of an object, and the member that gave it.
    Name { object: u32, member: u64 },
}

/// What became of a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is a new object, no directory, with this path.
    New { object: u32, path: Vec<u8> },
    /// It is another name of an object.
    Name { object: u32, path: Vec<u8> },
    /// It is a directory that was not there, or only because something lies in it.
    Folder { path: Vec<u8> },
    /// It is a directory that was there, by the member of this number.
    Again { member: u64 },
    /// It is there already.
    Nothing,
    /// It is not possible.
    LeftOut(String),
}

/// The directory as far as the stream has been read.
#[derive(Debug)]
pub(crate) struct TarTree {
    nodes: HashMap<[u8; 16], Node>,
    /// By number of object, the member that made it.
    objects: Vec<u64>,
    /// Where symlinks lead that can be followed, by number of object.
    targets: HashMap<u32, Vec<u8>>,
    /// The paths of hardlinks by their members, if they are to be known in the end.
    links: Option<HashMap<u64, Vec<u8>>>,
    /// Members of which the name was taken by a later one.
    gone: HashSet<u64>,
    replaced: bool,
}

/// What is left of a stream's members in the end.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Members that are not to be packed under their own name.
    pub gone: HashSet<u64>,
    /// Those among them that have another name, which is no longer a hardlink then.
    pub moved: HashMap<u64, Vec<u8>>,
}

impl TarTree {
    /// An empty directory. `look_back`: what remains will be asked for.
    pub fn new(look_back: bool) -> Self {
        let root = Node::Folder { names: 0, member: None };
        Self {
            nodes: HashMap::from([(key(b""), root)]),
            objects: Vec::new(),
            targets: HashMap::new(),
            links: look_back.then(HashMap::new),
            gone: HashSet::new(),
            replaced: false,
        }
    }

    /// Whether the last member took the place of an earlier one.
    pub fn has_replaced(&self) -> bool {
        self.replaced
    }

    /// Takes in the next member, of this number.
    pub fn put(&mut self, member: &Member, number: u64) -> Step {
        self.replaced = false;
        self.try_put(member, number).unwrap_or_else(Step::LeftOut)
    }

    fn try_put(&mut self, member: &Member, number: u64) -> Result<Step, String> {
        let path = self.resolve(&member.path)?;
        if member.kind == MemberKind::Folder {
            return self.put_folder(path, number);
        }
        if path.is_empty() {
            return Err("it takes the place of the root".into());
        }
        if let MemberKind::Hardlink { target } = &member.kind {
            let found = self.resolve(target).ok().and_then(|target| self.nodes.get(&key(&target)).copied());
            match found {
                Some(Node::Name { object, .. }) => return self.put_link(path, object, number),
                Some(Node::Folder { .. }) if *target == member.path => return Ok(Step::Nothing),
                Some(Node::Folder { .. }) => {
                    return Err(format!("it links to {}, which is a directory", escape(target)));
                }
                // It brings the content itself.
                None if member.size > 0 => {}
                None => {
                    return Err(format!("it links to {}, which was not packed before it", escape(target)));
                }
            }
        }
        self.clear(&path)?;
        let object =
            u32::try_from(self.objects.len()).map_err(|_| "there are too many members".to_owned())?;
        self.objects.push(number);
        if let MemberKind::Symlink { target } = &member.kind
            && !target.starts_with(b"/")
            && target.split(|&b| b == b'/').all(|part| part != b"..")
        {
            self.targets.insert(object, target.clone());
        }
        self.insert(&path, Node::Name { object, member: number });
        Ok(Step::New { object, path })
    }

    fn put_folder(&mut self, path: Vec<u8>, number: u64) -> Result<Step, String> {
        match self.nodes.get_mut(&key(&path)) {
            Some(Node::Folder { member: Some(member), .. }) => Ok(Step::Again { member: *member }),
            Some(Node::Folder { member, .. }) => {
                *member = Some(number);
                Ok(Step::Folder { path })
            }
            _ => {
                self.clear(&path)?;
                self.insert(&path, Node::Folder { names: 0, member: Some(number) });
                Ok(Step::Folder { path })
            }
        }
    }

    fn put_link(&mut self, path: Vec<u8>, object: u32, number: u64) -> Result<Step, String> {
        if matches!(self.nodes.get(&key(&path)), Some(Node::Name { object: same, .. }) if *same == object) {
            return Ok(Step::Nothing);
        }
        self.clear(&path)?;
        self.insert(&path, Node::Name { object, member: number });
        if let Some(links) = &mut self.links {
            links.insert(number, path.clone());
        }
        Ok(Step::Name { object, path })
    }

    /// Takes away what is in the way of a new object, if that may be.
    fn clear(&mut self, path: &[u8]) -> Result<(), String> {
        let member = match self.nodes.get(&key(path)) {
            None => return Ok(()),
            Some(Node::Folder { names: 1.., .. }) => {
                return Err("a directory with something in it has its path".into());
            }
            Some(Node::Folder { member, .. }) => *member,
            Some(Node::Name { member, .. }) => Some(*member),
        };
        self.nodes.remove(&key(path));
        if let Some(Node::Folder { names, .. }) = self.nodes.get_mut(&key(split(path).0)) {
            *names = names.saturating_sub(1);
        }
        if let Some(member) = member {
            self.gone.insert(member);
            self.replaced = true;
            self.links.as_mut().and_then(|links| links.remove(&member));
        }
        Ok(())
    }

    /// Adds a name that is not there, with the directories above it.
    fn insert(&mut self, path: &[u8], node: Node) {
        self.nodes.insert(key(path), node);
        let mut above = path;
        while !above.is_empty() {
            above = split(above).0;
            match self.nodes.get_mut(&key(above)) {
                Some(Node::Folder { names, .. }) => {
                    *names = names.saturating_add(1);
                    break;
                }
                Some(Node::Name { .. }) => break,
                None => _ = self.nodes.insert(key(above), Node::Folder { names: 1, member: None }),
            }
        }
    }

    /// The path that a member's really is; its last name is not followed.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, String> {
        let (folder, name) = split(path);
        let resolved = match self.nodes.get(&key(folder)) {
            Some(Node::Folder { .. }) => path.to_vec(),
            _ => join(&self.follow(folder)?, name),
        };
        check(&resolved)?;
        if resolved.len() > limits::PATH_LEN {
            return Err(format!("its path is longer than {} bytes", limits::PATH_LEN));
        }
        Ok(resolved)
    }

    /// Where a directory's path leads.
    fn follow(&self, folder: &[u8]) -> Result<Vec<u8>, String> {
        let mut at = Vec::new();
        // The last comes first. `true`: it is of a symlink's target, so that nothing is made for it.
        let parts = |path: &[u8], of_link: bool| -> Vec<(Vec<u8>, bool)> {
            path.split(|&b| b == b'/').rev().map(|part| (part.to_vec(), of_link)).collect()
        };
        let (mut todo, mut followed) = (parts(folder, false), 0);
        while let Some((name, of_link)) = todo.pop() {
            if name.is_empty() || name == b"." {
                continue;
            }
            let next = join(&at, &name);
            match self.nodes.get(&key(&next)) {
                Some(Node::Folder { .. }) => at = next,
                None if of_link => return Err("it lies below a symlink that leads nowhere".into()),
                None => at = next,
                Some(Node::Name { object, .. }) => {
                    let target = self.targets.get(object).filter(|_| followed < FOLLOWED);
                    let target = target
                        .ok_or_else(|| format!("it lies below {}, which is no directory", escape(&next)))?;
                    followed += 1;
                    todo.extend(parts(target, true));
                }
            }
        }
        Ok(at)
    }

    /// What is left in the end.
    pub fn remains(self) -> Remains {
        let Self { nodes, objects, mut gone, links, .. } = self;
        // Objects whose first name was taken live on under another of theirs: that of the earliest member.
        let mut heirs: HashMap<u64, u64> = HashMap::new();
        if !gone.is_empty() {
            for node in nodes.values() {
                if let Node::Name { object, member } = node
                    && let Some(maker) = objects.get(*object as usize).filter(|maker| gone.contains(*maker))
                {
                    let heir = heirs.entry(*maker).or_insert(*member);
                    *heir = (*heir).min(*member);
                }
            }
        }
        let mut links = links.unwrap_or_default();
        let mut moved = HashMap::new();
        for (maker, heir) in heirs {
            if let Some(path) = links.remove(&heir) {
                moved.insert(maker, path);
                gone.insert(heir);
            }
        }
        Remains { gone, moved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(path: &str, kind: MemberKind) -> Member {
        Member { path: path.into(), kind, ..Member::default() }
    }

    fn link(target: &str) -> MemberKind {
        MemberKind::Hardlink { target: target.into() }
    }

    fn symlink(target: &str) -> MemberKind {
        MemberKind::Symlink { target: target.into() }
    }

    #[test]
    fn a_link_keeps_what_its_target_was() {
        let mut tree = TarTree::new(true);
        let file = |path| member(path, MemberKind::File);
        for (number, (member, step)) in [
            (file("a"), Step::New { object: 0, path: b"a".to_vec() }),
            (member("a", link("a")), Step::Nothing),
            (member("b", link("a")), Step::Name { object: 0, path: b"b".to_vec() }),
            (member("c", link("b")), Step::Name { object: 0, path: b"c".to_vec() }),
            (member("b", link("c")), Step::Nothing),
            (file("a"), Step::New { object: 1, path: b"a".to_vec() }),
            (file("b"), Step::New { object: 2, path: b"b".to_vec() }),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(tree.put(&member, number as u64), step);
        }
        let remains = tree.remains();
        assert_eq!(remains.moved, HashMap::from([(0, b"c".to_vec())]));
        let mut gone: Vec<_> = remains.gone.into_iter().collect();
        gone.sort_unstable();
        assert_eq!(gone, [0, 2, 3]);
    }

    #[test]
    fn members_go_where_symlinks_lead_that_stay_inside() {
        let mut tree = TarTree::new(false);
        let at = |step: Step| match step {
            Step::New { path, .. } | Step::Folder { path } => Some(String::from_utf8(path).unwrap()),
            _ => None,
        };
        for (number, (path, kind, expected)) in [
            ("d", MemberKind::Folder, Some("d")),
            ("in", symlink("./d/"), Some("in")),
            ("up", symlink("d/../d"), Some("up")),
            ("abs", symlink("/d"), Some("abs")),
            ("none", symlink("nothing"), Some("none")),
            ("loop", symlink("loop"), Some("loop")),
            ("chain", symlink("in"), Some("chain")),
            ("in/x", MemberKind::File, Some("d/x")),
            ("chain/new/y", MemberKind::File, Some("d/new/y")),
            ("up/x", MemberKind::File, None),
            ("abs/x", MemberKind::File, None),
            ("none/x", MemberKind::File, None),
            ("loop/x", MemberKind::File, None),
            ("d", MemberKind::File, None),
            ("d/x/below", MemberKind::File, None),
            ("in", MemberKind::Folder, Some("in")),
            ("in/x", MemberKind::File, Some("in/x")),
        ]
        .into_iter()
        .enumerate()
        {
            let step = tree.put(&member(path, kind), number as u64);
            assert_eq!(at(step).as_deref(), expected, "{path}");
        }
    }
}
