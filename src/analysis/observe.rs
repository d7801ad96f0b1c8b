//! What of the analysis' work is counted.

use super::Output;
use crate::metrics::METRICS;
use crate::outbox::{Gone, Statement};
use crate::types::{CameraState, StageTimes};

/// Counts an output, before it is delivered.
pub(super) fn note(output: &Output) {
    for transition in &output.transitions {
        let status = &transition.status;
        let state = status.state.word();
        if state != transition.from.word() {
            METRICS.transitions.of(&[&status.camera, &status.rule, &state]).inc();
            // At once, not only with the next repetition.
            METRICS.set_rule_state(&status.camera, &status.rule, state);
        }
    }
    for statement in &output.statements {
        match statement {
            Statement::Rule(status) => {
                METRICS.set_rule_state(&status.camera, &status.rule, status.state.word());
            }
            Statement::Camera(status) => {
                let live = status.state == CameraState::Live;
                METRICS.camera_live.of(&[&status.camera]).set(i64::from(live));
            }
            Statement::Gone(Gone::Camera(camera)) => METRICS.forget_camera(camera.as_str()),
            _ => {}
        }
    }
    if let Some(snapshot) = &output.snapshot {
        METRICS.frames.of(&[&snapshot.frame.camera]).inc();
        times(&snapshot.times);
    }
}

fn times(times: &StageTimes) {
    let StageTimes { ingest, queue, preprocess, backbone, heads, geometry, rules } = *times;
    let stages = [
        ("ingest", ingest),
        ("queue", queue),
        ("preprocess", preprocess),
        ("backbone", backbone),
        ("heads", heads),
        ("geometry", geometry),
        ("rules", rules),
    ];
    for (stage, took) in stages {
        METRICS.stage_took(stage, took);
    }
}
