//! Pixels to the backbone's input: crop, antialiased bicubic resize, colour, normalise. The constants live
//! here once. Pure: no clock, no I/O, no threads.
