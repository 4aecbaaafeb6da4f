//! Owns the names that never leave unasked: git's own directory and the usual homes of secrets
//! (invariants.md, "secrets leak").
//!
//! It judges what every other rule would keep; only `--include` lifts it. Letter case is ignored:
//! a key copied from another system may be `SERVER.PEM`. Directories named like a kubeconfig are
//! kept, as they are usually source code.

use std::sync::{Arc, LazyLock};

use super::rules::{Rule, RuleFile};

/// Our own staging directory: never sent, whatever is included.
pub const STAGING: &[u8] = b".e2ek-sync";

/// The source that built-in rules name.
const SOURCE: &[u8] = b"built-in";

/// How a name is compared with a text in lower case.
#[derive(Clone, Copy)]
enum Shape {
    Is(&'static str),
    Begins(&'static str),
    Ends(&'static str),
    /// As `Is`, directories kept.
    File(&'static str),
    /// As `Ends`, directories kept.
    FileEnds(&'static str),
    /// This name inside a directory of that name.
    Inside(&'static str, &'static str),
}

/// The rules with the pattern that people are told; the first is [`STAGING`]'s.
const RULES: &[(&str, Shape)] = &[
    (".e2ek-sync", Shape::Is(".e2ek-sync")),
    (".git", Shape::Is(".git")),
    (".env*", Shape::Begins(".env")),
    ("*.pem", Shape::Ends(".pem")),
    ("id_rsa", Shape::Is("id_rsa")),
    ("id_dsa", Shape::Is("id_dsa")),
    ("id_ecdsa*", Shape::Begins("id_ecdsa")),
    ("id_ed25519*", Shape::Begins("id_ed25519")),
    ("kubeconfig", Shape::File("kubeconfig")),
    ("kubeconfig.yaml", Shape::File("kubeconfig.yaml")),
    ("kubeconfig.yml", Shape::File("kubeconfig.yml")),
    ("kubeconfig.json", Shape::File("kubeconfig.json")),
    ("*.kubeconfig", Shape::FileEnds(".kubeconfig")),
    (".kube/config", Shape::Inside(".kube", "config")),
];

static FILE: LazyLock<Arc<RuleFile>> = LazyLock::new(|| {
    let patterns: Vec<&str> = RULES.iter().map(|rule| rule.0).collect();
    Arc::new(RuleFile::of_names(SOURCE, &patterns))
});

/// The rule of our staging directory.
pub(super) fn staging() -> Rule {
    Rule::new(&FILE, 0)
}

/// The rule that protects `name` in the directory called `parent` (empty for the top).
pub(super) fn protects(parent: &[u8], name: &[u8], is_dir: bool) -> Option<Rule> {
    let starts = |text: &str| {
        name.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()))
    };
    let ends = |text: &str| {
        name.len() >= text.len()
            && name[name.len() - text.len()..].eq_ignore_ascii_case(text.as_bytes())
    };
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    let holds = |&(_, shape): &(&str, Shape)| match shape {
        Shape::Is(text) => is(text),
        Shape::Begins(text) => starts(text),
        Shape::Ends(text) => ends(text),
        Shape::File(text) => !is_dir && is(text),
        Shape::FileEnds(text) => !is_dir && ends(text),
        Shape::Inside(outer, inner) => {
            is(inner) && !is_dir && parent.eq_ignore_ascii_case(outer.as_bytes())
        }
    };
    RULES.iter().position(holds).map(|index| Rule::new(&FILE, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name() {
        for (parent, name, is_dir, pattern) in [
            ("", ".git", true, Some(".git")),
            ("", ".git", false, Some(".git")),
            ("a", ".env", false, Some(".env*")),
            ("a", ".env.example", false, Some(".env*")),
            ("a", "SERVER.PEM", false, Some("*.pem")),
            ("a", "id_rsa", false, Some("id_rsa")),
            ("a", "id_rsa.pub", false, None),
            ("a", "id_dsa", false, Some("id_dsa")),
            ("a", "id_ecdsa_sk", false, Some("id_ecdsa*")),
            ("a", "id_ed25519.bak", false, Some("id_ed25519*")),
            ("a", "kubeconfig", false, Some("kubeconfig")),
            ("pkg", "kubeconfig", true, None),
            ("pkg", "kubeconfig.go", false, None),
            ("a", "prod.kubeconfig", false, Some("*.kubeconfig")),
            (".kube", "config", false, Some(".kube/config")),
            ("app", "config", false, None),
            ("", ".gitignore", false, None),
            ("", "env", false, None),
            ("", "a.pem.txt", false, None),
        ] {
            let found = protects(parent.as_bytes(), name.as_bytes(), is_dir);
            let found = found.as_ref().map(Rule::pattern);
            assert_eq!(found, pattern.map(str::as_bytes), "{parent}/{name}");
        }
    }
}
