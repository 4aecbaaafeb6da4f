//! Measures what a small change of a file costs: bytes on the wire, time, memory.
//!
//! One session follows all files; rsync has a copy of its own and takes its turn after each change.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::figures::{Samples, between, megabytes, millis, ratio};
use crate::process::{forget_peak, memory};
use crate::product::time;
use crate::session::{Carried, Link, Session};
use crate::table::{Peer, Row};
use crate::tree::{Dice, Tree, change_lines, code, lines, noise};
use crate::visible::{Pair, same_content};
use crate::{Result, Settings, clock, machine, once, progress};

mod binary;

const LOST: Duration = Duration::from_secs(120);
const BIG: &str = "big.bin";
const FRONT: &str = "front.bin";
const APP: &str = "app.bin";
const CODE: &str = "code.py";
const ROUNDS: usize = 5;
/// 120 bytes that stand before what was there.
const INSERTED: usize = 120;
const CODE_BYTES: usize = 11_000;
const MIB: usize = 1 << 20;

const BIG_REACH_BYTES: u64 = 16 << 10;
const BIG_REACH_MEMORY: u64 = 40_000_000;
const FRONT_REACH: u64 = 1024;
const CODE_REACH: [i64; 2] = [250, 120];

/// How rsync is to work. It takes equal sizes and whole seconds for no change, and would miss a round.
const DELTA: [&str; 3] = ["--no-whole-file", "--ignore-times", "--stats"];

/// The session, what it keeps equal, and rsync's copy.
struct World {
    place: PathBuf,
    root: PathBuf,
    target: PathBuf,
    by_rsync: Option<PathBuf>,
    session: Session,
    pair: Pair,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("delta");
    let (root, target, by_rsync) =
        (place.join("source"), place.join("target"), place.join("rsync"));
    fs::create_dir_all(&root)?;
    fs::create_dir(&by_rsync)?;
    progress("delta: files, and a binary built twice");
    let mut dice = Dice(13);
    let (big, front) = if settings.short { (256, 25) } else { (1024, 100) };
    fill(&root.join(BIG), &mut dice, big * MIB)?;
    fill(&root.join(FRONT), &mut dice, front * 1_000_000)?;
    let lines = lines(&mut dice);
    fs::write(root.join(CODE), code(&mut dice, &lines, CODE_BYTES))?;
    let built = binary::twice(settings, &place)?;
    fs::copy(&built.before, root.join(APP))?;
    let link = if settings.product.sidecar.is_some() { Link::Counted } else { Link::Local };
    progress("delta: first syncs");
    let session = Session::start(settings, &place, &root, &target, link, 4)?;
    session.quiet()?;
    let by_rsync = machine::has("rsync").then_some(by_rsync);
    if let Some(copy) = &by_rsync {
        time(&mut once::rsync(&root, copy))?;
    }
    let pair = Pair::new(&single(&root), &target)?;
    let mut world = World { place, root, target, by_rsync, session, pair };
    one_byte(&mut world, big * MIB, if settings.short { 3 } else { ROUNDS }, rows)?;
    let row = format!("{INSERTED} B at the front of {front} MB: bytes on the wire");
    let content = world.place.join("longer");
    prepend(&world.root.join(FRONT), &content, &mut dice)?;
    let (carried, rsync) = replace(&mut world, FRONT, &content)?;
    let met = Some(carried.sum() <= FRONT_REACH);
    let row = Row::new(row).ours(carried.to_string()).peer(Peer::Rsync, bytes(rsync));
    rows.push(row.ratio(times(carried, rsync)).reach(format!("<= {FRONT_REACH}"), met));
    let size = megabytes(fs::metadata(&built.after)?.len());
    let row = Row::new(format!("{}, {size:.1} MB: bytes on the wire", built.what));
    let (carried, rsync) = replace(&mut world, APP, &built.after)?;
    let row = row.ours(carried.to_string()).peer(Peer::Rsync, bytes(rsync));
    let met = rsync.map(|rsync| carried.sum() * 10 <= rsync * 6);
    rows.push(row.ratio(times(carried, rsync)).reach("<= 0.6x rsync", met));
    one_line(&mut world, &mut dice, rows)?;
    for name in [BIG, FRONT, APP, CODE] {
        if !same_file(&world.root.join(name), &world.target.join(name))? {
            return Err(format!("{name} differs in the end").into());
        }
    }
    world.session.stop()
}

/// One byte of a large file, written in place.
fn one_byte(world: &mut World, size: usize, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let processes = world.session.processes()?;
    let first = processes.map(|(_, pid)| memory(pid).map(|memory| memory.peak));
    let (mut ours, mut rsync) = (Samples::default(), Samples::default());
    let mut carried: Vec<Carried> = Vec::new();
    let (mut peaks, mut rsync_bytes) = ([0; 2], None);
    let mut dice = Dice(17);
    for round in 0..rounds {
        progress(format_args!("delta: one byte, {} of {rounds}", round + 1));
        let (from, to) = (world.root.join(BIG), world.target.join(BIG));
        let at = u64::try_from(dice.below(size))?;
        let file = OpenOptions::new().read(true).write(true).open(&from)?;
        let value = byte_at(&file, at)?.wrapping_add(1);
        rustix::fs::sync();
        for (_, pid) in processes {
            forget_peak(pid)?;
        }
        let before = world.session.carried()?;
        world.pair.forget();
        let began = clock::now();
        file.write_all_at(&[value], at)?;
        drop(file);
        let there = |_: &Path| {
            File::open(&to).is_ok_and(|file| byte_at(&file, at).is_ok_and(|byte| byte == value))
        };
        let arrived = world.pair.arrived_as(&[BIG.into()], LOST, there)?;
        ours.push(between(began, arrived));
        world.session.acknowledged(LOST)?;
        carried.push(world.session.carried()?.since(before));
        for (peak, (_, pid)) in peaks.iter_mut().zip(processes) {
            *peak = (*peak).max(memory(pid)?.peak);
        }
        if let Some(copy) = &world.by_rsync {
            let mut command = Command::new("rsync");
            command.args(["-a", "--inplace"]).args(DELTA).args([&from, copy]);
            let began = clock::now();
            rsync_bytes = Some(stats(&mut command)?);
            rsync.push(between(began, clock::now()));
        }
    }
    let what = format!("1 byte in {} MiB", size / MIB);
    let row = Row::new(format!("{what}: save -> applied (min / median / max of {rounds})"));
    let row = row.ours(ours.range()).peer(Peer::Rsync, once::or_absent(&rsync));
    let both = ours.median().zip(rsync.median());
    let met = both.map(|(ours, rsync)| millis(ours) <= 0.6 * millis(rsync));
    rows.push(row.ratio(ratio(ours.median(), rsync.median())).reach("<= 0.6x rsync", met));
    carried.sort_by_key(|carried| carried.sum());
    let middle = carried.get(carried.len() / 2).copied().unwrap_or_default();
    let row = Row::new(format!("{what}: bytes on the wire")).ours(middle.to_string());
    let row = row.peer(Peer::Rsync, bytes(rsync_bytes)).ratio(times(middle, rsync_bytes));
    rows.push(row.reach(format!("<= {BIG_REACH_BYTES}"), Some(middle.sum() <= BIG_REACH_BYTES)));
    for (((name, _), peak), first) in processes.iter().zip(peaks).zip(first) {
        let (peak_mb, first) = (megabytes(peak), megabytes(first?));
        let row = Row::new(format!("{what}: VmHWM of the {name}"))
            .ours(format!("{peak_mb:.1} MB (first sync: {first:.1} MB)"));
        let met = Some(peak <= BIG_REACH_MEMORY);
        rows.push(row.reach(format!("<= {} MB", BIG_REACH_MEMORY / 1_000_000), met));
    }
    Ok(())
}

/// One line of a small file, each time another one.
fn one_line(world: &mut World, dice: &mut Dice, rows: &mut Vec<Row>) -> Result<()> {
    let (mut out, mut back, mut rsync) = (Samples::default(), Samples::default(), None);
    for _ in 0..ROUNDS {
        let mut content = fs::read(world.root.join(CODE))?;
        change_lines(&mut content, dice, 1);
        let file = world.place.join("edited");
        fs::write(&file, content)?;
        let (carried, by_rsync) = replace(world, CODE, &file)?;
        out.push(carried.out.cast_signed());
        back.push(carried.back.cast_signed());
        rsync = by_rsync;
    }
    let (out, back) = (out.median().unwrap_or_default(), back.median().unwrap_or_default());
    let [most_out, most_back] = CODE_REACH;
    let row = Row::new(format!("one line of an {} KB file: bytes on the wire", CODE_BYTES / 1000));
    let row = row.ours(format!("{out} out, {back} back")).peer(Peer::Rsync, bytes(rsync));
    let met = Some(out <= most_out && back <= most_back);
    rows.push(row.reach(format!("<= {most_out} out, {most_back} back"), met));
    Ok(())
}

/// Renames `content` over a file of the source, as editors and linkers do: what crossed the link,
/// and rsync's bytes both ways for the same.
fn replace(world: &mut World, name: &str, content: &Path) -> Result<(Carried, Option<u64>)> {
    progress(format_args!("delta: {name}"));
    let from = world.root.join(name);
    let before = world.session.carried()?;
    world.pair.forget();
    fs::rename(content, &from)?;
    world.pair.arrived(&[name.into()], LOST)?;
    world.session.acknowledged(LOST)?;
    let carried = world.session.carried()?.since(before);
    let Some(copy) = &world.by_rsync else { return Ok((carried, None)) };
    let mut command = Command::new("rsync");
    command.arg("-a").args(DELTA).args([&from, copy]);
    Ok((carried, Some(stats(&mut command)?)))
}

/// Runs an rsync with `--stats`: its bytes both ways.
fn stats(command: &mut Command) -> Result<u64> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| -> Result<u64> {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(found.ok_or_else(|| format!("no {name} in {text}"))?.replace([',', ' '], "").parse()?)
    };
    Ok(number("Total bytes sent:")? + number("Total bytes received:")?)
}

fn bytes(count: Option<u64>) -> String {
    count.map_or_else(|| "absent".to_owned(), |count| count.to_string())
}

fn times(ours: Carried, rsync: Option<u64>) -> String {
    ratio(Some(ours.sum().cast_signed()), rsync.map(u64::cast_signed))
}

fn single(root: &Path) -> Tree {
    Tree { root: root.to_owned(), directories: vec![PathBuf::new()], files: Vec::new(), bytes: 0 }
}

fn byte_at(file: &File, at: u64) -> Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// Random bytes, a MiB at a time.
fn fill(path: &Path, dice: &mut Dice, bytes: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(MIB);
        file.write_all(&noise(dice, part))?;
        left -= part;
    }
    Ok(())
}

fn prepend(old: &Path, new: &Path, dice: &mut Dice) -> Result<()> {
    let mut file = File::create(new)?;
    file.write_all(&noise(dice, INSERTED))?;
    std::io::copy(&mut File::open(old)?, &mut file)?;
    Ok(())
}

fn same_file(here: &Path, there: &Path) -> Result<bool> {
    if fs::metadata(here)?.len() < MIB as u64 {
        return Ok(same_content(here, there));
    }
    let (mut here, mut there) = (File::open(here)?, File::open(there)?);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    loop {
        one.clear();
        two.clear();
        let count = Read::by_ref(&mut here).take(MIB as u64).read_to_end(&mut one)?;
        Read::by_ref(&mut there).take(MIB as u64).read_to_end(&mut two)?;
        if one != two {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}
