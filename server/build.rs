//! Generates the gRPC messages and services of `proto/`.

use std::path::PathBuf;

/// The calls that `http/grpc/infer.rs` answers itself: the generated service must not have them.
const OURS: [&str; 2] = ["ModelInfer", "ModelStreamInfer"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).open_file("inference.proto")?;
    // What clients may read of us at run time, whole.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("inference.bin"), compiler.encode_file_descriptor_set())?;
    let mut descriptors = compiler.file_descriptor_set();
    for service in descriptors.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| !OURS.contains(&method.name()));
    }
    tonic_prost_build::configure().build_client(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
