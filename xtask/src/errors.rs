//! docs/errors.md, from the API's table of codes.

use std::fmt::Write;

use api::error::Code;

/// The page.
pub fn page() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Every failed request answers `{\"success\": false, \"error\": {\"code\", \"message\", \"requestId\", \
         \"details\"?}}`. The code is stable; the\nmessage is for people; `details` names every wrong field as \
         `{\"field\", \"reason\"}`; `requestId` is in the log too.\n\n\
         This page is written by `cargo xtask gen` from `api/src/error.rs`.\n\n\
         | code | HTTP | message | when |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let when = code.description().split_whitespace().collect::<Vec<_>>().join(" ");
        let (name, status, message) = (code.as_str(), code.status(), code.message());
        let _ = writeln!(page, "| `{name}` | {status} | {message} | {when} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }
}
