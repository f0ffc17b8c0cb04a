//! What the operating system is asked for: files that appear whole, extended attributes.

pub mod beneath;
pub mod partial_file;
pub mod xattr;

/// Whether an error says nothing of the object it happened on: the process or the machine has no more descriptors or
/// memory, and the next object would fare alike.
pub(crate) fn is_exhausted(error: &std::io::Error) -> bool {
    use rustix::io::Errno;

    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}
