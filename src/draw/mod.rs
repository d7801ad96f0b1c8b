//! Pictures for people: annotated frames and plots. Pure: takes data, gives an RGB image.
