//! Reads a tar stream, member by member. Between them, the reader yields the data of the last one.

use std::io::{self, Error, ErrorKind, Read};

use super::header::{BLOCK, checksums, field};
use super::sparse::Map;
use super::{number, sparse};
use crate::wire::entry::Timestamp;

/// Bytes of an extended header, which is held.
const EXTENDED_MAX: u64 = 16 << 20;

/// Bytes of a sparse file's map in front of its data.
const MAP_MAX: u64 = 64 << 20;

/// One object of a tar stream, named as archives name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Without leading and trailing slashes and `.` components; `..` stays and is the caller's matter.
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    /// Sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// It has an access control list in words, which is not read.
    pub has_acl: bool,
    /// Of a file, holes included.
    pub size: u64,
    /// Of a sparse file: where its data lie, which follow one after the other.
    pub segments: Option<Vec<(u64, u64)>>,
    /// What cannot be understood of it. Its data are passed over, and the stream goes on behind them.
    pub odd: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MemberKind {
    #[default]
    File,
    Folder,
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an earlier member; some writers repeat the data of that, and `size` tells how many.
    Hardlink {
        target: Vec<u8>,
    },
    Fifo,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    /// Of a kind that archives do not have, by its letter.
    Unknown(u8),
}

/// What extended headers say of a member.
#[derive(Clone, Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    has_acl: bool,
    sparse: Sparse,
    /// A record, or all of them, could not be understood.
    is_odd: bool,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// With its mark, and zeros at most behind it.
    #[default]
    Marked,
    /// Without a mark, so that members may be missing.
    Bare,
    /// With its mark, and from this byte on there is more.
    Followed(u64),
}

/// GNU's records for sparse files.
#[derive(Clone, Debug, Default)]
struct Sparse {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Option<Map>,
    /// Forms 0.0: pairs as they come.
    offset: Option<u64>,
}

pub struct TarReader<R> {
    input: Peeked<R>,
    /// Bytes of the stream that were read.
    offset: u64,
    /// Bytes of the member's data that were not, and those that fill their last block.
    left: u64,
    padding: u64,
    /// What holds for all members that follow.
    global: Extended,
    /// Go on behind the mark of an end.
    ignore_zeros: bool,
    end: Option<End>,
}

/// A stream of which a block may be looked at before it is read.
struct Peeked<R> {
    inner: R,
    held: Vec<u8>,
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            return self.inner.read(buf);
        }
        let len = buf.len().min(self.held.len());
        buf[..len].copy_from_slice(&self.held[..len]);
        self.held.drain(..len);
        Ok(len)
    }
}

impl<R: Read> TarReader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input: Peeked { inner: input, held: Vec::new() },
            offset: 0,
            left: 0,
            padding: 0,
            global: Extended::default(),
            ignore_zeros: false,
            end: None,
        }
    }

    /// The same, but blocks of zeros do not end the stream: several streams may follow each other.
    pub fn ignoring_zeros(self, ignore_zeros: bool) -> Self {
        Self { ignore_zeros, ..self }
    }

    /// How the stream ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    fn bad(&self, what: &str) -> Error {
        Error::new(ErrorKind::InvalidData, format!("no sound tar stream before byte {}: {what}", self.offset))
    }

    /// The next member; `None` at the end, to which everything was read then.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let mut extended = self.global.clone();
        let (mut begun, mut is_pax) = (false, false);
        loop {
            self.skip_data()?;
            let header = match self.header(begun)? {
                Next::Header(header) => header,
                Next::End(_) if begun => return Err(self.bad("an extended header describes nothing")),
                Next::End(end) => {
                    self.end = Some(self.drain(end)?);
                    return Ok(None);
                }
            };
            let kind = header[field::KIND];
            // A size in an extended header is that of the member, not of more headers before it.
            let is_extension = matches!(kind, b'L' | b'K' | b'x' | b'X' | b'g');
            let size = number::read(&header[field::SIZE]).and_then(|size| u64::try_from(size).ok());
            let size = extended.size.filter(|_| !is_extension).or(size).ok_or_else(|| self.bad("a size"))?;
            let has_data = match kind {
                // POSIX lets hardlinks have data where there is an extended header; many writers give them a
                // size without data all the same, so that a size in the header itself counts only if what
                // follows is no header.
                b'1' => size > 0 && is_pax && (extended.size.is_some() || !self.header_follows()?),
                // Symlinks, devices, folders and FIFOs have none, whatever size some writers put there.
                b'2'..=b'6' => false,
                _ => true,
            };
            let size = if has_data { size } else { 0 };
            if size > i64::MAX as u64 {
                return Err(self.bad("a size"));
            }
            self.left = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            if !is_extension {
                return self.member(&header, extended).map(Some);
            }
            if size > EXTENDED_MAX {
                return Err(self.bad("an extended header is too long"));
            }
            let mut content = Vec::new();
            self.read_to_end(&mut content)?;
            match kind {
                b'L' => extended.path = Some(until_nul(&content).to_vec()),
                b'K' => extended.link = Some(until_nul(&content).to_vec()),
                b'g' => {
                    let mut global = std::mem::take(&mut self.global);
                    global.read(&content).ok_or_else(|| self.bad("a global extended header"))?;
                    self.global = global.clone();
                    extended = global;
                    continue;
                }
                _ => {
                    is_pax = true;
                    extended.is_odd |= extended.read(&content).is_none();
                }
            }
            begun = true;
        }
    }

    /// The next header whose checksum is right, or the end. `begun`: it is one that must come.
    fn header(&mut self, begun: bool) -> io::Result<Next> {
        let (mut header, mut zeros) = ([0; BLOCK], false);
        loop {
            let start = self.offset == 0;
            header.fill(0);
            match self.block(&mut header) {
                Ok(true) => {}
                Ok(false) => return Ok(Next::End(if zeros { End::Marked } else { End::Bare })),
                // Zeros behind an end need not fill a block.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof && zeros && header == [0; BLOCK] => {
                    return Ok(Next::End(End::Marked));
                }
                Err(e) if e.kind() == ErrorKind::UnexpectedEof && start => {
                    return Err(self.unlike_tar(&header).unwrap_or(e));
                }
                Err(e) => return Err(e),
            }
            if header != [0; BLOCK] {
                if is_sound(&header) {
                    return Ok(Next::Header(header));
                }
                let other = if start { self.unlike_tar(&header) } else { None };
                return Err(other.unwrap_or_else(|| self.bad("the checksum of a header differs")));
            }
            if begun || !self.ignore_zeros {
                return Ok(Next::End(End::Marked));
            }
            // What another stream says of all its members holds for none of the next.
            (zeros, self.global) = (true, Extended::default());
        }
    }

    /// Whether a header, or the end, comes next. Nothing is read by that.
    fn header_follows(&mut self) -> io::Result<bool> {
        let mut block = Vec::new();
        (&mut self.input).take(BLOCK as u64).read_to_end(&mut block)?;
        let follows = match <&[u8; BLOCK]>::try_from(&block[..]) {
            Ok(header) => *header == [0; BLOCK] || is_sound(header),
            Err(_) => block.is_empty(),
        };
        self.input.held.splice(0..0, block);
        Ok(follows)
    }

    /// Reads what is behind the end, and tells where it begins if it is more than zeros.
    fn drain(&mut self, end: End) -> io::Result<End> {
        let mut buf = vec![0; 64 << 10];
        let mut found = end;
        loop {
            match self.input.read(&mut buf) {
                Ok(0) => return Ok(found),
                Ok(len) => {
                    let more = buf[..len].iter().position(|&byte| byte != 0);
                    if let (Some(at), End::Marked) = (more, found) {
                        found = End::Followed(self.offset + at as u64);
                    }
                    self.offset += len as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The error for what begins with these bytes, if they are known to be something else.
    fn unlike_tar(&self, start: &[u8]) -> Option<Error> {
        let (_, what) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic))?;
        Some(Error::new(ErrorKind::InvalidData, format!("this is no tar stream but {what}")))
    }

    /// Fills a block; `false` if the stream ended before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut()),
                Ok(got) => {
                    filled += got;
                    self.offset += got as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn cut(&self) -> Error {
        Error::new(ErrorKind::UnexpectedEof, format!("the tar stream is cut short at byte {}", self.offset))
    }

    fn skip_data(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        let padding = io::copy(&mut (&mut self.input).take(self.padding), &mut io::sink())?;
        self.offset += padding;
        if padding < self.padding {
            return Err(self.cut());
        }
        self.padding = 0;
        Ok(())
    }

    fn member(&mut self, header: &[u8; BLOCK], mut extended: Extended) -> io::Result<Member> {
        let mut odd = extended.is_odd.then_some("an extended header");
        let letter = header[field::KIND];
        let gnu = header[field::MAGIC] == *b"ustar  \0";
        let mut path = extended.path.take().unwrap_or_else(|| {
            let name = until_nul(&header[field::NAME]);
            let prefix = if gnu || !header[field::MAGIC].starts_with(b"ustar") {
                b""
            } else {
                until_nul(&header[field::PREFIX])
            };
            if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
        });
        let link = extended.link.take().unwrap_or_else(|| until_nul(&header[field::LINK]).to_vec());
        let number = |range| number::read(&header[range]);
        let id = |given: Option<u64>, range| {
            given
                .or(number(range).and_then(|id| u64::try_from(id).ok()))
                .and_then(|id| u32::try_from(id).ok())
        };
        let device = || {
            let part = |range| number(range).and_then(|part| u32::try_from(part).ok());
            Some((part(field::MAJOR)?, part(field::MINOR)?))
        };
        let kind = match letter {
            // Before there were letters, a slash at the end made a folder.
            0 | b'0' if path.ends_with(b"/") => MemberKind::Folder,
            0 | b'0' | b'7' | b'S' => MemberKind::File,
            b'1' => MemberKind::Hardlink { target: clean(&link) },
            b'2' => MemberKind::Symlink { target: link },
            b'5' | b'D' => MemberKind::Folder,
            b'6' => MemberKind::Fifo,
            b'3' | b'4' => {
                let (major, minor) = or_odd(device(), "a device number", &mut odd);
                if letter == b'3' {
                    MemberKind::CharDevice { major, minor }
                } else {
                    MemberKind::BlockDevice { major, minor }
                }
            }
            other => MemberKind::Unknown(other),
        };
        let mut size = self.left;
        let mut segments = None;
        match kind {
            MemberKind::File => {
                path = extended.sparse.name.take().unwrap_or(path);
                match self.map(header, &mut extended.sparse, &mut size)? {
                    Some(map) => segments = map,
                    None => odd = Some("the map of a sparse file"),
                }
            }
            MemberKind::Hardlink { .. } => {}
            _ => size = 0,
        }
        let secs = |secs| Timestamp { secs, nanos: 0 };
        let mtime = extended.mtime.or_else(|| number(field::MTIME).map(secs));
        let mtime = or_odd(mtime, "a time", &mut odd);
        let mode = or_odd(number(field::MODE), "a mode", &mut odd);
        let uid = or_odd(id(extended.uid, field::UID), "an owner", &mut odd);
        let gid = or_odd(id(extended.gid, field::GID), "a group", &mut odd);
        extended.xattrs.sort();
        // The last of one name counts.
        extended.xattrs.reverse();
        extended.xattrs.dedup_by(|a, b| a.0 == b.0);
        extended.xattrs.reverse();
        Ok(Member {
            path: clean(&path),
            kind,
            mode: (mode & 0o7777) as u16,
            uid,
            gid,
            mtime,
            xattrs: extended.xattrs,
            has_acl: extended.has_acl,
            size,
            segments,
            odd,
        })
    }

    /// The map of a sparse file, if it is one, and in `size` how long it is with its holes. `None` if there is a map
    /// that cannot be understood.
    fn map(
        &mut self,
        header: &[u8; BLOCK],
        sparse: &mut Sparse,
        size: &mut u64,
    ) -> io::Result<Option<Option<Map>>> {
        let mut map = Some(Map::new());
        let real = if header[field::KIND] == b'S' {
            let mut add = |fields: &[u8]| {
                let read = map.as_mut().and_then(|map| sparse::read_old(fields, map));
                map = map.take().filter(|_| read.is_some());
            };
            add(&header[field::GNU_SPARSE]);
            let mut more = header[field::GNU_EXTENDED] != 0;
            while more {
                let mut block = [0; BLOCK];
                if !self.block(&mut block)? {
                    return Err(self.cut());
                }
                add(&block[..504]);
                more = block[504] != 0;
            }
            number::read(&header[field::GNU_REAL_SIZE]).and_then(|size| u64::try_from(size).ok())
        } else if sparse.major == Some(1) {
            map = self.read_lines()?;
            sparse.size
        } else if let Some(given) = sparse.map.take() {
            map = Some(given);
            sparse.size
        } else {
            return Ok(Some(None));
        };
        let (Some(map), Some(real)) = (map, real.filter(|&real| real <= i64::MAX as u64)) else {
            return Ok(None);
        };
        *size = real;
        Ok(sparse::check(map, real, self.left).map(Some))
    }

    /// The map in front of the data, which fills whole blocks; `None` if it is none.
    fn read_lines(&mut self) -> io::Result<Option<Map>> {
        let mut text = Vec::new();
        let (mut at, mut numbers, mut due) = (0, Vec::new(), 1);
        while numbers.len() < due {
            match text[at..].iter().position(|&b: &u8| b == b'\n') {
                Some(len) => {
                    let Some(value) = number::decimal(&text[at..at + len]) else { return Ok(None) };
                    if numbers.is_empty() {
                        let parts = usize::try_from(value).ok().filter(|parts| *parts <= sparse::PARTS);
                        let Some(parts) = parts else { return Ok(None) };
                        due = 1 + 2 * parts;
                    }
                    numbers.push(value);
                    at += len + 1;
                }
                None => {
                    let start = text.len();
                    text.resize(start + BLOCK, 0);
                    if start as u64 > MAP_MAX || self.left < BLOCK as u64 {
                        return Ok(None);
                    }
                    self.read_exact(&mut text[start..])?;
                }
            }
        }
        Ok(Some(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Yields the data of the member at hand.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.input.read(&mut buf[..want])?;
        if got == 0 && want > 0 {
            return Err(self.cut());
        }
        self.left -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }
}

impl Extended {
    /// Takes in the records of an extended header: `LENGTH KEY=VALUE\n`, of any bytes. `None` if some could not be
    /// understood; the others count.
    fn read(&mut self, mut content: &[u8]) -> Option<()> {
        let mut all = Some(());
        while !content.is_empty() {
            let blank = content.iter().take(20).position(|&b| b == b' ')?;
            let len = usize::try_from(number::decimal(&content[..blank])?).ok()?;
            let record = content.get(blank + 1..len)?.strip_suffix(b"\n")?;
            content = &content[len..];
            let equals = record.iter().position(|&b| b == b'=')?;
            all = self.set(&record[..equals], &record[equals + 1..]).and(all);
        }
        all
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said.
        let given = (!value.is_empty()).then_some(value);
        let decimal = |value: Option<&[u8]>| match value {
            None => Some(None),
            Some(value) => number::decimal(value).map(Some),
        };
        match key {
            b"path" => self.path = given.map(<[u8]>::to_vec),
            b"linkpath" => self.link = given.map(<[u8]>::to_vec),
            b"size" => self.size = decimal(given)?,
            b"uid" => self.uid = decimal(given)?,
            b"gid" => self.gid = decimal(given)?,
            b"mtime" => self.mtime = given.map(number::time).map_or(Some(None), |time| time.map(Some))?,
            b"GNU.sparse.major" => self.sparse.major = decimal(given)?,
            b"GNU.sparse.name" => self.sparse.name = given.map(<[u8]>::to_vec),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = decimal(given)?,
            b"GNU.sparse.map" => self.sparse.map = Some(sparse::read_commas(value)?),
            b"GNU.sparse.offset" => self.sparse.offset = decimal(given)?,
            b"GNU.sparse.numbytes" => {
                let pair = (self.sparse.offset.take()?, number::decimal(value)?);
                let map = self.sparse.map.get_or_insert_default();
                map.push(pair);
                (map.len() <= sparse::PARTS).then_some(())?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((number::unescape(name), value.to_vec()));
                }
                self.has_acl |= key.starts_with(b"SCHILY.acl.");
            }
        }
        Some(())
    }
}

/// What comes next in a stream.
#[allow(clippy::large_enum_variant, reason = "one at a time is at hand")]
enum Next {
    Header([u8; BLOCK]),
    End(End),
}

/// How streams begin that are taken for tar streams by mistake.
const OTHERS: [(&[u8], &str); 14] = [
    (b"\x1f\x8b", "compressed by gzip; `gzip -dc` makes it one"),
    (b"BZh", "compressed by bzip2; `bzip2 -dc` makes it one"),
    (b"\xfd7zXZ\0", "compressed by xz; `xz -dc` makes it one"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; `zstd -dc` makes it one"),
    (b"\x04\x22\x4d\x18", "compressed by lz4; `lz4 -dc` makes it one"),
    (b"LZIP", "compressed by lzip; `lzip -dc` makes it one"),
    (b"\x89LZO\0", "compressed by lzop; `lzop -dc` makes it one"),
    (b"\x5d\0\0", "compressed by lzma; `xz -dc` makes it one"),
    (b"\x1f\x9d", "compressed by compress; `gzip -dc` makes it one"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"07070", "a cpio archive"),
    (&crate::wire::header::MAGIC, "an s3a archive"),
];

/// Whether a header's checksum is right.
fn is_sound(header: &[u8; BLOCK]) -> bool {
    let stored = number::read(&header[field::CHECKSUM]);
    let (unsigned, signed) = checksums(header);
    stored == Some(unsigned) || stored == Some(signed)
}

/// A value, or else a note of what is missing.
fn or_odd<T: Default>(value: Option<T>, what: &'static str, odd: &mut Option<&'static str>) -> T {
    value.unwrap_or_else(|| {
        *odd = Some(what);
        T::default()
    })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A path as archives have it.
fn clean(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_any_bytes_are_read() {
        let mut extended = Extended::default();
        let fixed = [&b"12 path=a\nb\n11 mtime=3\n"[..], b"29 SCHILY.xattr.user.x=\n=\0\xff\xfe\n"].concat();
        extended.read(&fixed).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(extended.mtime, Some(Timestamp { secs: 3, nanos: 0 }));
        assert_eq!(extended.xattrs, [(b"user.x".to_vec(), b"\n=\0\xff\xfe".to_vec())]);
        for bad in [&b"x path=a\n"[..], b"99 path=a\n", b"9 path=a ", b"8 patha\n", b"11 mtime=x\n", b"0 "] {
            assert!(Extended::default().read(bad).is_none(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (given, path) in [("./a/b/", "a/b"), ("/abs//x", "abs/x"), ("./", ""), ("a/../b", "a/../b")] {
            assert_eq!(clean(given.as_bytes()), path.as_bytes());
        }
    }
}
