//! Makes a binary and the same after a change: a generated Rust program, built twice by rustc.
//!
//! Between the builds one function gets another body, so that what comes after it moves. Without a
//! compiler it is our own hub, and a copy of it with scattered edits.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::product::time;
use crate::tree::Dice;
use crate::{Result, Settings, complain};

const SCATTERED: usize = 200;

pub(super) struct Built {
    pub(super) what: String,
    pub(super) before: PathBuf,
    pub(super) after: PathBuf,
}

pub(super) fn twice(settings: &Settings, place: &Path) -> Result<Built> {
    let functions = if settings.short { 300 } else { 2300 };
    let (before, after) = (place.join("app-before"), place.join("app-after"));
    let built = build(place, functions, false, &before)
        .and_then(|()| build(place, functions, true, &after));
    let what = match built {
        Ok(()) => "a Rust program built again with one function changed".to_owned(),
        Err(error) => {
            complain(format_args!("no rustc, so no build: {error}"));
            scatter(&settings.product.binary, &before, &after)?;
            format!("our own binary with {SCATTERED} scattered edits")
        }
    };
    Ok(Built { what, before, after })
}

fn build(place: &Path, functions: usize, changed: bool, output: &Path) -> Result<()> {
    let source = place.join("app.rs");
    fs::write(&source, program(functions, changed)?)?;
    time(
        Command::new("rustc")
            .args(["--edition", "2021", "--crate-name", "app", "-C", "debuginfo=2"])
            .args(["-C", "codegen-units=1", "-A", "warnings", "-o"])
            .args([output, &source])
            .current_dir(place),
    )?;
    Ok(())
}

/// Functions that have text of their own, calls, branches and a generic map.
fn program(functions: usize, changed: bool) -> Result<String> {
    let mut dice = Dice(19);
    let mut text = String::from("use std::collections::BTreeMap;\n");
    for number in 0..functions {
        let (one, two) = (dice.below(1000), dice.below(1000));
        let more = if changed && number == functions / 2 {
            "    sum ^= words.len() as u64;\n    println!(\"checked {sum}\");\n"
        } else {
            ""
        };
        write!(
            text,
            "#[derive(Clone, Debug)]\nstruct S{number} {{ a: u64, name: String, b: [u8; {}] }}\n\
             fn f{number}(map: &mut BTreeMap<u64, String>, words: &[&str]) -> u64 {{\n\
             \x20   let mut sum = {one};\n\
             \x20   for word in words {{ sum += word.len() as u64 * {two}; }}\n{more}\
             \x20   let s = S{number} {{ a: sum, name: format!(\"{one} of {{sum}}\"), b: [{}; {}] }};\n\
             \x20   map.insert(sum, format!(\"{{s:?}} in f{number}\"));\n\
             \x20   if sum % 7 == {} {{ map.remove(&{two}); }}\n\
             \x20   sum + s.a + s.name.len() as u64\n}}\n",
            1 + number % 50,
            number % 256,
            1 + number % 50,
            number % 7,
        )?;
    }
    text.push_str("fn main() {\n    let (mut map, mut sum) = (BTreeMap::new(), 0u64);\n");
    for number in 0..functions {
        writeln!(text, "    sum ^= f{number}(&mut map, &[\"a\", \"bc\"]);")?;
    }
    text.push_str("    println!(\"{sum} {}\", map.len());\n}\n");
    Ok(text)
}

fn scatter(binary: &Path, before: &Path, after: &Path) -> Result<()> {
    let mut content = fs::read(binary)?;
    fs::write(before, &content)?;
    let mut dice = Dice(23);
    for _ in 0..SCATTERED {
        let place = dice.below(content.len());
        content[place] = content[place].wrapping_add(1);
    }
    Ok(fs::write(after, content)?)
}
