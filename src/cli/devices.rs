//! `s3a info --devices`: what models can run on here, and why not on more.

use serde::Serialize;

use super::output::{Out, human_bytes};
use crate::error::Result;
use crate::kernels::backend::Backend;

#[derive(Serialize)]
struct Devices {
    /// The kernels in use, and all that this CPU can run.
    cpu: &'static str,
    kernels: Vec<&'static str>,
    gpus: Vec<Gpu>,
    /// Why there is no GPU, or none that can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_gpu: Option<String>,
    /// The compiler that GPUs need at first use.
    #[serde(skip_serializing_if = "Option::is_none")]
    compiler: Option<String>,
}

#[derive(Serialize)]
struct Gpu {
    device: String,
    #[serde(flatten)]
    state: State,
}

#[derive(Serialize)]
#[serde(untagged)]
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "nothing is found without the backend"))]
enum State {
    Usable { name: String, arch: String, multiprocessors: u32, memory: u64 },
    Refused { refused: String },
}

/// Prints what was found.
pub(crate) fn print(json: bool, out: &mut Out) -> Result<()> {
    let found = find();
    if json {
        return out.json(&found);
    }
    out.line(format_args!("cpu: {} kernels (this CPU can run {})", found.cpu, found.kernels.join(", ")))?;
    for gpu in &found.gpus {
        match &gpu.state {
            State::Usable { name, arch, multiprocessors, memory } => out.line(format_args!(
                "{}: {name}, {arch}, {multiprocessors} multiprocessors, {}",
                gpu.device,
                human_bytes(*memory)
            ))?,
            State::Refused { refused } => out.line(format_args!("{}: not usable: {refused}", gpu.device))?,
        }
    }
    if let Some(why) = &found.no_gpu {
        out.line(format_args!("cuda: none: {why}"))?;
    }
    if let Some(compiler) = &found.compiler {
        out.line(format_args!("nvrtc: {compiler}"))?;
    }
    Ok(())
}

fn find() -> Devices {
    let cpu = Backend::best().name();
    let kernels = Backend::available().into_iter().map(Backend::name).collect();
    let (gpus, no_gpu, compiler) = gpus();
    Devices { cpu, kernels, gpus, no_gpu, compiler }
}

#[cfg(feature = "gpu")]
fn gpus() -> (Vec<Gpu>, Option<String>, Option<String>) {
    let all = match crate::codec::cuda::decoder::devices() {
        Ok(all) => all,
        Err(why) => return (vec![], Some(why), None),
    };
    let state = |found: Result<crate::codec::cuda::decoder::Found, String>| match found {
        Ok(found) => State::Usable {
            name: found.name,
            arch: format!("sm_{}", found.arch),
            multiprocessors: found.processors,
            memory: found.memory as u64,
        },
        Err(refused) => State::Refused { refused },
    };
    let gpus = (0..)
        .zip(all)
        .map(|(number, found): (u32, _)| Gpu { device: format!("cuda:{number}"), state: state(found) });
    let compiler = crate::kernels::cuda::compile::compiler();
    let compiler =
        compiler.map_or_else(|fault| fault.to_string(), |(major, minor)| format!("{major}.{minor}"));
    (gpus.collect(), None, Some(compiler))
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> (Vec<Gpu>, Option<String>, Option<String>) {
    (vec![], Some("this s3a was built without `gpu`".into()), None)
}
