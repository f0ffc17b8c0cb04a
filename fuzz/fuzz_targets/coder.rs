#![no_main]

#[path = "../../tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(init: bodies::on_one_thread(), |data: &[u8]| bodies::coder(data));
