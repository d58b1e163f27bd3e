//! Takes the Rust example out of docs/webhooks.md, so that the tests compile what the document shows.

use std::{env, fs, path::PathBuf};

fn main() {
    let directory = |variable| PathBuf::from(env::var_os(variable).expect("cargo says where"));
    let document = directory("CARGO_MANIFEST_DIR").join("../docs/webhooks.md");
    println!("cargo::rerun-if-changed={}", document.display());
    let text = fs::read_to_string(&document).expect("docs/webhooks.md");
    let example = text
        .split_once("\n### Rust\n")
        .and_then(|(_, rest)| rest.split_once("```rust\n"))
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(example, _)| example)
        .expect("a Rust example in docs/webhooks.md");
    fs::write(directory("OUT_DIR").join("webhook_example.rs"), example).expect("the example is written");
}
