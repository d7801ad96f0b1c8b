//! What the decoder is trained and scored on: sets of views with their tokens, some frames held out when asked.

use anyhow::{Context, bail, ensure};

use super::dataset::Tokens;
use super::decoder::{self, Sample};
use super::decoder_score;
use super::lesson::Target;
use super::projection::Projection;
use super::view::View;
use super::{Args, Part, bar, counted};
use crate::heads::HeadFile;
use crate::heads::decoder::CLASSES;

/// Tokens with the views that they are of.
type Set<'a> = (&'a Tokens, Vec<View>);

/// Trains on sets of train, the first of whole frames, the last of crops, and scores on those of val and on the frames of
/// train that were held out: the head, and what it reaches.
pub fn train(
    args: &Args,
    train: &Part,
    sets: &[Set<'_>],
    val: &Part,
    val_sets: &[Set<'_>],
) -> anyhow::Result<(HeadFile, Vec<(String, String)>)> {
    let classes = &train.labels.first().context("train/ has no frames")?.truth.classes;
    ensure!(classes.len() == CLASSES, "the decoder has {CLASSES} classes, the labels {}", classes.len());
    let counted = counted(classes);
    let held = |view: &View| args.hold_out > 1 && view.frame % args.hold_out == args.hold_out - 1;
    let targets = |part: &Part, sets: &[Set<'_>]| -> anyhow::Result<Vec<Vec<Target>>> {
        let progress = bar(sets.iter().map(|(_, v)| v.len() as u64).sum(), "targets")?;
        let of = |view: &View| {
            progress.inc(1);
            Target::of(view, &part.labels[view.frame], sets[0].0.grid, &counted)
        };
        let out = sets.iter().map(|(_, views)| views.iter().map(of).collect()).collect();
        progress.finish_and_clear();
        Ok(out)
    };
    let taught = targets(train, sets)?;
    let Some(((tokens, views), first)) = sets.first().zip(taught.first()) else {
        bail!("there is nothing to train on")
    };
    let grid = tokens.grid;
    // Patches of things, and every eleventh of the others, of every second frame: the directions must tell things.
    let mut rows = Vec::new();
    for (i, target) in first.iter().enumerate().step_by(2).filter(|(i, _)| !held(&views[*i])) {
        let thing = |patch: usize| target.lessons.iter().any(|l| l.patch == patch);
        rows.extend((0..grid.len()).filter(|p| (p + i) % 11 == 0 || thing(*p)).map(|p| (i, p)));
    }
    let projection = Projection::fit(tokens, &rows);
    let (mut samples, mut left_out) = (Vec::new(), Vec::new());
    for ((tokens, views), targets) in sets.iter().zip(taught) {
        let mut apart = Vec::new();
        for (i, (view, target)) in views.iter().zip(targets).enumerate() {
            if held(view) {
                apart.push((i, view, target));
            } else {
                samples.push(Sample { values: projection.apply(tokens.frame(i)), target });
            }
        }
        left_out.push((*tokens, apart));
    }
    let progress = bar((args.decoder_epochs * decoder::steps(&samples)) as u64, "decoder")?;
    let head = decoder::train(&samples, grid, &projection, classes, args.decoder_epochs, &progress)?;
    progress.finish();
    let mut reached = Vec::new();
    for ((tokens, views), (targets, prefix)) in
        val_sets.iter().zip(targets(val, val_sets)?.iter().zip(["", "crops_"]))
    {
        let views: Vec<_> = views.iter().zip(targets).enumerate().map(|(i, (v, t))| (i, v, t)).collect();
        reached.extend(decoder_score::decoder(prefix, &head, tokens, &views, &val.labels));
    }
    let straight_and_crops = [left_out.first(), left_out.last()].into_iter().flatten();
    for ((tokens, apart), prefix) in straight_and_crops.zip(["held_out_", "held_out_crops_"]) {
        if !apart.is_empty() {
            let views: Vec<_> = apart.iter().map(|(i, view, target)| (*i, *view, target)).collect();
            reached.extend(decoder_score::decoder(prefix, &head, tokens, &views, &train.labels));
        }
    }
    Ok((head, reached))
}
