//! Exact search against usearch's HNSW on 100,000 embeddings: time to build, memory, time to search, recall.

use std::collections::HashSet;
use std::error::Error;
use std::time::Instant;

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

const COUNT: usize = 100_000;
const DIM: usize = 384;
const QUERIES: usize = 200;
const WANTED: usize = 20;
/// Kinds of incident: neighbours are of one kind.
const KINDS: usize = 500;
/// How far an embedding lies from its kind, as a share of the kind's length in every direction.
const SPREAD: f32 = 0.09;

/// Xorshift.
struct Dice(u64);

impl Dice {
    /// -0.5 to 0.5.
    fn throw(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

fn to_unit(values: &mut [f32]) {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter_mut().for_each(|v| *v /= length);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for (x, y) in a.chunks_exact(16).zip(b.chunks_exact(16)) {
        sums.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum += x * y);
    }
    sums.iter().sum()
}

fn near(kinds: &[f32], count: usize, dice: &mut Dice) -> Vec<f32> {
    let mut all = vec![0.0; count * DIM];
    for row in all.chunks_mut(DIM) {
        let kind = ((dice.throw() + 0.5) * KINDS as f32) as usize % KINDS;
        row.iter_mut().zip(&kinds[kind * DIM..]).for_each(|(v, k)| *v = k + SPREAD * dice.throw());
        to_unit(row);
    }
    all
}

fn exact(data: &[f32], query: &[f32]) -> HashSet<u64> {
    let mut all: Vec<(f32, u64)> = data.chunks(DIM).zip(0..).map(|(row, at)| (dot(query, row), at)).collect();
    all.select_nth_unstable_by(WANTED, |a, b| b.0.total_cmp(&a.0));
    all[..WANTED].iter().map(|(_, at)| *at).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut dice = Dice(88_172_645_463_325_252);
    let mut kinds: Vec<f32> = (0..KINDS * DIM).map(|_| dice.throw()).collect();
    kinds.chunks_mut(DIM).for_each(to_unit);
    let (data, queries) = (near(&kinds, COUNT, &mut dice), near(&kinds, QUERIES, &mut dice));
    let each = |since: Instant| since.elapsed().as_secs_f64() * 1e3 / QUERIES as f64;

    let started = Instant::now();
    let right: Vec<_> = queries.chunks(DIM).map(|query| exact(&data, query)).collect();
    println!("exact: {:.1} ms a search on one thread, {} MB", each(started), COUNT * DIM * 4 / 1_000_000);

    let options = IndexOptions {
        dimensions: DIM,
        metric: MetricKind::Cos,
        quantization: ScalarKind::F16,
        connectivity: 16,
        expansion_add: 128,
        expansion_search: 64,
        multi: false,
    };
    let index = Index::new(&options)?;
    index.reserve(COUNT)?;
    let started = Instant::now();
    for (row, at) in data.chunks(DIM).zip(0..) {
        index.add(at, row)?;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "usearch, half floats: built in {took:.1} s on one thread, {} MB",
        index.memory_usage() / 1_000_000
    );
    let started = Instant::now();
    let mut same = 0;
    for (query, right) in queries.chunks(DIM).zip(&right) {
        same += index.search(query, WANTED)?.keys.iter().filter(|key| right.contains(key)).count();
    }
    println!(
        "  {:.2} ms a search, recall@{WANTED} {:.3}",
        each(started),
        same as f64 / (QUERIES * WANTED) as f64
    );

    let file = std::env::temp_dir().join(format!("usearch-compared-{}", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    index.save(&path)?;
    let started = Instant::now();
    let opened = Index::new(&options)?;
    opened.view(&path)?;
    opened.search(&queries[..DIM], WANTED)?;
    println!(
        "  file of {} MB opened and searched once: {:.1} ms",
        file.metadata()?.len() / 1_000_000,
        started.elapsed().as_secs_f64() * 1e3
    );
    let started = Instant::now();
    opened.filtered_search(&queries[..DIM], WANTED, |key| key % 100 == 7)?;
    println!("  one search that a filter leaves 1 % of: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    std::fs::remove_file(file)?;
    Ok(())
}
