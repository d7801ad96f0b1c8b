//! What a metric scene means: verdicts (rules), states (the latch), and when a rule is armed. Pure.
