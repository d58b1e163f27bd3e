//! docker-compose.yml and the Dockerfile parse, and name only settings that exist.

use std::{collections::BTreeSet, fs};

use serde_yaml_ng::Value;

/// The settings that the generated documentation lists.
fn settings() -> BTreeSet<String> {
    let documented = fs::read_to_string(tests::repository().join("docs/configuration.md"))
        .expect("the settings are documented");
    let names = documented.split('`').filter(|word| word.starts_with("IRIS_") || *word == "DATABASE_URL");
    names.map(ToOwned::to_owned).collect()
}

#[test]
fn compose_names_services_and_settings_that_exist() {
    let text = fs::read_to_string(tests::repository().join("docker-compose.yml")).unwrap();
    let mut compose: Value = serde_yaml_ng::from_str(&text).unwrap();
    compose.apply_merge().unwrap();
    let services = compose["services"].as_mapping().unwrap();
    let names: BTreeSet<&str> = services.keys().filter_map(Value::as_str).collect();
    assert_eq!(names, ["api", "dispatcher", "migrate", "postgres", "worker"].into());
    let known = settings();
    for (name, service) in services {
        let name = name.as_str().unwrap();
        if name == "postgres" {
            continue;
        }
        // A container has its own machine.
        for setting in known.iter().filter(|setting| !tests::OF_THE_MACHINE.contains(&setting.as_str())) {
            let passed = service["environment"].get(setting.as_str()).is_some();
            assert!(passed, "{setting} cannot be set for {name}");
        }
        for (setting, _) in service["environment"].as_mapping().unwrap() {
            let setting = setting.as_str().unwrap();
            assert!(known.contains(setting), "{name} sets {setting}, which does not exist");
        }
        assert_eq!(service["command"][0], name, "a service is a role");
    }
    let worker = &compose["services"]["worker"];
    assert!(worker.get("container_name").is_none() && worker.get("ports").is_none(), "the worker scales");
}

#[test]
fn the_dockerfile_builds_the_binary_and_runs_it_as_nobody_special() {
    let text = fs::read_to_string(tests::repository().join("Dockerfile")).unwrap();
    let text = text.replace("\\\n", " ");
    let instructions: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .collect();
    let known = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "ENTRYPOINT",
        "CMD",
        "EXPOSE",
        "ENV",
        "ARG",
        "LABEL",
        "STOPSIGNAL",
    ];
    for (instruction, _) in &instructions {
        assert!(known.contains(instruction), "{instruction} is no instruction");
    }
    let last = |name: &str| instructions.iter().rev().find(|(i, _)| *i == name).map(|(_, rest)| *rest);
    assert_eq!(last("ENTRYPOINT"), Some("[\"iris\"]"));
    assert!(last("USER").is_some_and(|user| user != "root" && user != "0"));
    let settings = settings();
    let mut set = 0;
    for (_, rest) in instructions.iter().filter(|(instruction, _)| *instruction == "ENV") {
        for (name, _) in rest.split_whitespace().filter_map(|word| word.split_once('=')) {
            assert!(settings.contains(name), "{name} does not exist");
            set += 1;
        }
    }
    assert_eq!(set, 2, "both addresses of the container are set");
}
