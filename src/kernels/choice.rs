//! Which kernels this process uses: chosen once, after a self-test.

use std::sync::OnceLock;

use super::backend::Backend;
use super::check;

/// The backend that was chosen, and warnings about the choice.
#[derive(Debug)]
struct Choice {
    backend: Backend,
    warnings: Vec<String>,
}

static CHOICE: OnceLock<Choice> = OnceLock::new();

/// Chooses the last of `available`, or the one with the name `wanted`. A backend that `differs`
/// from the scalar kernels is not used; the scalar kernels take its place, because a CPU that fails
/// the test is not trusted with any other vector instruction either.
fn choose(
    available: Vec<Backend>,
    wanted: Option<&str>,
    differs: impl Fn(Backend) -> Option<&'static str>,
) -> Choice {
    let mut warnings = vec![];
    let named = wanted.and_then(|wanted| available.iter().find(|backend| backend.name() == wanted));
    if let (Some(wanted), None) = (wanted, named) {
        let names: Vec<_> = available.iter().map(|backend| backend.name()).collect();
        warnings.push(format!(
            "there are no kernels `{wanted}` as S3A_KERNELS wants; this CPU can run {}",
            names.join(", ")
        ));
    }
    let mut backend = named.or(available.last()).copied().unwrap_or(Backend::Scalar);
    if let Some(kernel) = differs(backend) {
        warnings.push(format!(
            "the {} kernels fail their self-test ({kernel}); the scalar ones do their work, slowly",
            backend.name()
        ));
        backend = Backend::Scalar;
    }
    Choice { backend, warnings }
}

impl Backend {
    /// The backend that this process uses: the fastest of this CPU that passes its self-test, or
    /// the one that the environment names (`S3A_KERNELS=scalar`, `avx2` and so on;
    /// `S3A_FORCE_SCALAR=1`).
    pub fn best() -> Self {
        CHOICE
            .get_or_init(|| {
                let forced = std::env::var_os("S3A_FORCE_SCALAR").is_some_and(|value| value == "1");
                let wanted = std::env::var("S3A_KERNELS").ok().filter(|name| !name.is_empty());
                let wanted = if forced { Some(Self::Scalar.name().to_owned()) } else { wanted };
                choose(Self::available(), wanted.as_deref(), check::differs)
            })
            .backend
    }

    /// Sentences for people about why `best` did not take the backend that one would expect. Empty
    /// before `best` was called.
    pub fn warnings() -> &'static [String] {
        CHOICE.get().map_or(&[], |choice| &choice.warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_that_passes_its_self_test_is_chosen() {
        let all = Backend::available;
        let fastest = all().last().map_or("", |backend| backend.name());
        let choice = choose(all(), None, |_| None);
        assert_eq!((choice.backend.name(), choice.warnings.len()), (fastest, 0));
        for backend in all() {
            let choice = choose(all(), Some(backend.name()), |_| None);
            assert_eq!((choice.backend.name(), choice.warnings.len()), (backend.name(), 0));
        }
        let choice = choose(all(), Some("abacus"), |_| None);
        assert_eq!((choice.backend.name(), choice.warnings.len()), (fastest, 1));
        let choice = choose(all(), None, |_| Some("linear"));
        assert_eq!(choice.backend.name(), "scalar");
        assert!(choice.warnings[0].contains("(linear)"));
    }
}
