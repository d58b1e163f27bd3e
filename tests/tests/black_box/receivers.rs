//! Webhooks as receivers in other languages see them: the code of docs/webhooks.md, what the hosted iris publishes, and
//! the Standard Webhooks libraries, each asked about a request of the real dispatcher and about forgeries of it.

mod capture;
mod cases;
mod judges;
mod server;

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::PathBuf};

use capture::{Captured, captured, captured_in_overlap};
use judges::Judge;

/// The Rust example, taken out of the document by build.rs.
mod documented {
    include!(concat!(env!("OUT_DIR"), "/webhook_example.rs"));
}

fn document() -> String {
    fs::read_to_string(tests::repository().join("docs/webhooks.md")).expect("docs/webhooks.md")
}

/// The code in the given language under a heading of the document.
fn example(heading: &str, language: &str) -> String {
    let text = document();
    let section = text.split_once(&format!("\n### {heading}\n")).expect("the heading").1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let section = section.split("\n### ").next().unwrap_or_default();
    let block = section.split_once(&format!("```{language}\n")).expect("an example").1;
    block.split_once("```").expect("its end").0.to_owned()
}

/// Asks the example of a language.
async fn check(
    heading: &str,
    language: &str,
    code_name: &'static str,
    program: &'static str,
    command: &'static [&'static str],
) {
    let code = example(heading, language);
    let judge = Judge { command, program, code_name, code };
    judge.check(&cases::iris(captured().await), |_, _| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_example_accepts_iris_alone() {
    check("JavaScript", "javascript", "verify.mjs", "judge.mjs", &["node", "judge.mjs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_accepts_iris_alone() {
    check("Python", "python", "verify.py", "judge.py", &["python3", "judge.py"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_example_accepts_iris_alone() {
    check("Go", "go", "verify.go", "judge.go", &["go", "run", "judge.go", "verify.go"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ruby_example_accepts_iris_alone() {
    check("Ruby", "ruby", "verify.rb", "judge.rb", &["ruby", "judge.rb"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_accepts_iris_alone() {
    for case in cases::iris(captured().await) {
        let header = |name: &str| case.request.headers.get(name).map_or("", String::as_str);
        let (timestamp, signature) = (header("x-iris-timestamp"), header("x-iris-signature"));
        let verdict =
            documented::is_from_iris(&case.request.secret, timestamp, signature, &case.request.body);
        assert_eq!(verdict, case.accepted, "{}", case.what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_handler_accepts_iris_alone() {
    let published = fs::read_to_string(tests::repository().join("tests/interop/published.ts")).unwrap();
    // Node does not know types. This is the only one.
    assert_eq!(published.matches(": Request").count(), 1);
    let judge = Judge {
        command: &["node", "judge_published.mjs"],
        program: "judge_published.mjs",
        code_name: "verify.mjs",
        code: published.replace(": Request", ""),
    };
    let mut cases = cases::iris(captured().await);
    // It looks at no clock.
    cases.retain(|case| !case.about_age);
    judge.check(&cases, |_, _| ()).await;
}

/// Where `./run interop` installed the libraries.
fn libraries() -> PathBuf {
    let directory = std::env::var_os("IRIS_INTEROP_DIR");
    directory.expect("IRIS_INTEROP_DIR says where the libraries are; use ./run interop").into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a library of npm; ./run interop installs it"]
async fn the_standard_webhooks_library_of_npm_accepts_iris_alone() {
    let judge = Judge {
        command: &["node", "judge_standard.mjs"],
        program: "judge_standard.mjs",
        code_name: "verify.mjs",
        code: example("With a Standard Webhooks library", "javascript"),
    };
    let modules = libraries().join("node_modules");
    assert!(modules.join("standardwebhooks").is_dir(), "the library is not in {}", modules.display());
    let arrange = |directory: &std::path::Path, _: &mut _| {
        symlink(&modules, directory.join("node_modules")).expect("a link");
    };
    judge.check(&cases::standard(captured().await), arrange).await;
    let overlap = captured_in_overlap().await;
    for secret in [&overlap.secret, &captured().await.secret] {
        judge.check(&cases::overlap(overlap, secret), arrange).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a library of PyPI; ./run interop installs it"]
async fn the_standard_webhooks_library_of_pypi_accepts_iris_alone() {
    let judge = Judge {
        command: &["python3", "judge_standard.py"],
        program: "judge_standard.py",
        code_name: "verify.py",
        code: example("With a Standard Webhooks library", "python"),
    };
    let packages = libraries().join("python");
    assert!(packages.join("standardwebhooks").is_dir(), "the library is not in {}", packages.display());
    let arrange = |_: &std::path::Path, command: &mut tokio::process::Command| {
        command.env("PYTHONPATH", &packages);
    };
    judge.check(&cases::standard(captured().await), arrange).await;
    let overlap = captured_in_overlap().await;
    for secret in [&overlap.secret, &captured().await.secret] {
        judge.check(&cases::overlap(overlap, secret), arrange).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_overlap_there_is_a_signature_by_either_secret() {
    let (request, old) = (captured_in_overlap().await, &captured().await.secret);
    assert_ne!(&request.secret, old);
    let expected = [&request.secret, old].map(|secret| cases::standard_signature(secret, request));
    assert_eq!(request.headers["webhook-signature"], expected.join(" "));
    let (timestamp, signature) = (&request.headers["x-iris-timestamp"], &request.headers["x-iris-signature"]);
    for (secret, accepted) in [(&request.secret, true), (old, false)] {
        assert_eq!(documented::is_from_iris(secret, timestamp, signature, &request.body), accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_shows_what_is_sent() {
    let text = document();
    let shown = text.split("```http\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut lines = shown.lines();
    let request = captured().await;
    assert_eq!(lines.next(), Some(request.request_line.as_str()));
    let shown: BTreeSet<String> = lines.map(|line| line.split_once(": ").unwrap().0.to_lowercase()).collect();
    // What HTTP/1.1 itself needs is not shown.
    let http = ["accept", "content-length", "host"];
    let sent = request.headers.keys().filter(|name| !http.contains(&name.as_str())).cloned();
    assert_eq!(shown, sent.collect());

    let fields = |body: &[u8]| -> Vec<String> {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        body.as_object().unwrap().keys().cloned().collect()
    };
    let shown = text.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(fields(shown.as_bytes()), fields(&request.body));
}

#[test]
fn the_known_answer_of_the_document_is_right() {
    let text = document();
    let value = |name: &str| {
        let row = text.split_once(&format!("\n| {name} | `")).unwrap_or_else(|| panic!("no {name}")).1;
        row.split_once("` |\n").unwrap().0.to_owned()
    };
    let request = Captured {
        secret: value("secret"),
        request_line: String::new(),
        headers: [("x-iris-timestamp".to_owned(), value("timestamp"))].into(),
        body: value("body").into_bytes(),
    };
    assert_eq!(cases::iris_signature(&request.secret, &request), value("signature"));
}
