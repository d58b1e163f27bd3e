//! A broken configuration stops the start with one line that says what and where.

use std::process::Command;

fn fails(environment: &[(&str, &str)], args: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let output = Command::new(tests::iris())
        .args(args)
        .env("IRIS_HOME", home.path())
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("IRIS_SECRET_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
        .envs(environment.iter().copied())
        .output()
        .expect("iris runs");
    assert!(!output.status.success(), "{args:?} with {environment:?}");
    assert!(output.stdout.is_empty());
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// Settings, arguments, and the variable that is to be named.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

#[test]
fn every_wrong_setting_is_named() {
    let cases: [Case; 8] = [
        (&[("IRIS_SECRET_KEY", "short")], &["api"], "IRIS_SECRET_KEY"),
        (&[("IRIS_API_ADDR", "here")], &["api"], "IRIS_API_ADDR"),
        (&[("IRIS_API_ADDR", "192.0.2.1:80")], &["api"], "IRIS_API_ADDR"),
        (&[("IRIS_DAY", "soon")], &["worker"], "IRIS_DAY"),
        (&[("IRIS_WEBHOOK_ALLOW", "127.0.0.0/99")], &["dispatcher"], "IRIS_WEBHOOK_ALLOW"),
        (&[("IRIS_LOG", "loud=very")], &["migrate"], "IRIS_LOG"),
        (
            &[("IRIS_SMTP_URL", "smtp://127.0.0.1:25"), ("IRIS_SMTP_FROM", "nobody")],
            &["worker"],
            "IRIS_SMTP_FROM",
        ),
        (&[("DATABASE_URL", "mysql://127.0.0.1/x")], &["worker"], "DATABASE_URL"),
    ];
    for (environment, args, variable) in cases {
        let line = fails(environment, args);
        assert!(line.contains(variable), "{variable} is not in: {line}");
        for (_, value) in environment {
            if *value == "short" {
                assert!(!line.contains(value), "a secret is shown: {line}");
            }
        }
    }
}

#[test]
fn an_unknown_command_is_one_line() {
    fails(&[], &["campaigns"]);
}
