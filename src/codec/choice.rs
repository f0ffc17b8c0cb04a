//! Which device decodes many chunks at once in this process (docs/research/gpu.md).

use std::sync::{Arc, OnceLock};

use super::offload::costs::Costs;
pub use super::offload::dispatch::Offload;
use crate::error::{Error, Result};

/// The devices that a user allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The CPU, and the first GPU for work that it does sooner, if there is one.
    #[default]
    Auto,
    /// The CPU alone.
    Cpu,
    /// The GPU with this number, for all work.
    Cuda(u32),
}

impl Choice {
    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`. Fails with `Error::Usage` on other texts.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) if number.parse::<u32>().is_ok() => {
                Ok(Self::Cuda(number.parse().unwrap_or_default()))
            }
            _ => Err(Error::Usage(format!("device {text:?} is not known; auto, cpu or cuda[:N]"))),
        }
    }
}

static CHOSEN: OnceLock<Option<Arc<Offload>>> = OnceLock::new();

/// Sets the device of this process; only the first call has an effect. A GPU that was asked for by
/// its number is opened at once. `S3A_DEVICE_COSTS` gives the costs by which work is divided
/// (`Costs::parse`); without it, costs are measured.
///
/// # Errors
/// `Usage` if the GPU that was asked for cannot be used, with the reason.
pub fn choose(choice: Choice) -> Result<()> {
    let fixed = Costs::given()?;
    let offload = match choice {
        Choice::Cpu => None,
        Choice::Auto => Some(Arc::new(Offload::new(Box::new(|| open(0))).with_costs(fixed))),
        Choice::Cuda(number) => {
            let refused = |why| Error::Usage(format!("device cuda:{number}: {why}"));
            Some(Arc::new(Offload::to(open(number).map_err(refused)?).with_costs(fixed)))
        }
    };
    CHOSEN.get_or_init(|| offload);
    Ok(())
}

/// The device that works beside the CPU in this process, if one was chosen.
pub fn chosen() -> Option<Arc<Offload>> {
    CHOSEN.get().cloned().flatten()
}

#[cfg(feature = "gpu")]
pub use super::cuda::decoder::{Found, devices, open};

#[cfg(not(feature = "gpu"))]
fn open(_: u32) -> Result<Box<dyn super::offload::device::Device>, String> {
    Err("this s3a was built without `gpu`; build it with `--features gpu`".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(Choice::parse(text).unwrap(), choice);
        }
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:1", "auto:0", "cuda:-1"] {
            assert!(matches!(Choice::parse(bad), Err(Error::Usage(_))), "{bad}");
        }
    }
}
