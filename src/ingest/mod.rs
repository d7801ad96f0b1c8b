//! Camera streams to frames: one OS thread a camera owns its GStreamer pipeline and its reconnects.
