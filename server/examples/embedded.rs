//! A champion and its shadow inside another program, without a server:
//! `cargo run --release --example embedded -- models`

use std::time::Duration;

use onnxd::{Engine, Options};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows its answers")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repository = std::env::args().nth(1).unwrap_or_else(|| "models".into());
    let engine = Engine::open(Options::new(repository))?;
    engine.wait(Duration::from_secs(60))?;
    for cpu in [0.5, 2.1, 8.0, 30.0] {
        let request = format!(r#"{{"cpu_zscore": {cpu}, "memory_zscore": 1.5}}"#);
        let answer = engine.predict("anomaly", request.as_bytes()).await?;
        println!("{request} -> {}", String::from_utf8(answer)?);
    }
    // The challenger scores when there is time; nobody waits for it but this example.
    for _ in 0..100 {
        if engine.shadow("anomaly").is_none_or(|shadow| shadow.pairs == 4) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine.close();
    if let Some(shadow) = engine.shadow("anomaly") {
        println!("the challenger scored {} of these rows and agreed on {}", shadow.pairs, shadow.agreements);
    }
    Ok(())
}
