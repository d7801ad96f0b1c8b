//! Finding the incidents that look most like one: cosine with every kept embedding. Exact, because at 100,000 that takes
//! less time than opening an approximate index, which must be built, stored and purged besides (docs/search.md has the
//! numbers).

use crate::types::ClassName;

use super::dot;

/// Embeddings of many incidents. An incident may have several.
#[derive(Debug, Default)]
pub struct Gallery {
    /// Values a vector.
    dim: usize,
    values: Vec<f32>,
    /// Whose each vector is, rising.
    incidents: Vec<usize>,
    /// Index into `names`.
    classes: Vec<u16>,
    names: Vec<ClassName>,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Only vectors of this class count; none for all.
    pub class: Option<ClassName>,
    /// Its embedding, of length 1.
    pub embedding: Vec<f32>,
}

/// An incident that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Which.
    pub incident: usize,
    /// Cosine, -1 to 1; of several probes the mean.
    pub similarity: f32,
}

/// The class of a vector that has none.
const NO_CLASS: u16 = u16::MAX;

impl Gallery {
    /// Adds a vector of length 1. False when it is not as long as those before, and then it is left out: it is of another
    /// model. Incidents are added one after the other.
    pub fn add(&mut self, incident: usize, class: Option<&ClassName>, embedding: &[f32]) -> bool {
        if embedding.is_empty() || (self.dim != 0 && embedding.len() != self.dim) {
            return false;
        }
        let class = match class {
            None => NO_CLASS,
            Some(class) => {
                let known = self.names.iter().position(|name| name == class);
                let at = known.unwrap_or_else(|| {
                    self.names.push(class.clone());
                    self.names.len() - 1
                });
                u16::try_from(at).unwrap_or(NO_CLASS)
            }
        };
        self.dim = embedding.len();
        self.values.extend_from_slice(embedding);
        self.incidents.push(incident);
        self.classes.push(class);
        true
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.incidents.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.incidents.is_empty()
    }

    /// The incidents most like the probes, best first: for each probe the incident's best vector counts, and the mean of
    /// that over the probes. An incident that has nothing for a probe (no such class) counts as 0 there.
    pub fn search(&self, probes: &[Probe], n: usize) -> Vec<Hit> {
        let mut hits: Vec<Hit> = vec![];
        for probe in probes.iter().filter(|probe| probe.embedding.len() == self.dim) {
            let place = |class: &ClassName| self.names.iter().position(|name| name == class);
            // A class that nothing here has fits no vector.
            let wanted = probe.class.as_ref().map(|class| place(class).unwrap_or(usize::MAX));
            let mut of_probe: Vec<Hit> = vec![];
            let rows = self.values.chunks_exact(self.dim.max(1));
            for ((row, incident), class) in rows.zip(&self.incidents).zip(&self.classes) {
                let fits = wanted.is_none_or(|wanted| wanted == usize::from(*class));
                let similarity = if fits { dot(row, &probe.embedding) } else { f32::NEG_INFINITY };
                match of_probe.last_mut().filter(|last| last.incident == *incident) {
                    Some(last) => last.similarity = last.similarity.max(similarity),
                    None => of_probe.push(Hit { incident: *incident, similarity }),
                }
            }
            of_probe
                .iter_mut()
                .filter(|hit| !hit.similarity.is_finite())
                .for_each(|hit| hit.similarity = 0.0);
            if hits.is_empty() {
                hits = of_probe;
            } else {
                hits.iter_mut().zip(&of_probe).for_each(|(sum, hit)| sum.similarity += hit.similarity);
            }
        }
        hits.iter_mut().for_each(|hit| hit.similarity /= probes.len().max(1) as f32);
        let better =
            |a: &Hit, b: &Hit| b.similarity.total_cmp(&a.similarity).then(a.incident.cmp(&b.incident));
        if hits.len() > n {
            hits.select_nth_unstable_by(n, better);
            hits.truncate(n);
        }
        hits.sort_by(better);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> ClassName {
        ClassName::new(name).unwrap()
    }

    fn gallery() -> Gallery {
        let mut gallery = Gallery::default();
        for (incident, name, values) in [
            (3, "forklift", [1.0, 0.0]),
            (3, "person", [0.0, 1.0]),
            (5, "forklift", [0.6, 0.8]),
            (8, "forklift", [-1.0, 0.0]),
            (8, "person", [0.8, 0.6]),
        ] {
            assert!(gallery.add(incident, Some(&class(name)), &values));
        }
        gallery
    }

    fn found(probes: &[Probe], n: usize) -> Vec<(usize, f32)> {
        let hits = gallery().search(probes, n);
        hits.into_iter().map(|hit| (hit.incident, (hit.similarity * 1000.0).round() / 1000.0)).collect()
    }

    fn probe(class_of: Option<&str>, embedding: [f32; 2]) -> Probe {
        Probe { class: class_of.map(class), embedding: embedding.to_vec() }
    }

    #[test]
    fn the_best_vector_of_an_incident_counts() {
        assert_eq!(found(&[probe(None, [0.0, 1.0])], 9), [(3, 1.0), (5, 0.8), (8, 0.6)]);
        assert_eq!(found(&[probe(Some("forklift"), [1.0, 0.0])], 2), [(3, 1.0), (5, 0.6)]);
        assert_eq!(found(&[probe(Some("truck"), [1.0, 0.0])], 1), [(3, 0.0)]);
    }

    #[test]
    fn several_probes_count_by_their_mean() {
        let both = [probe(Some("forklift"), [-1.0, 0.0]), probe(Some("person"), [1.0, 0.0])];
        // 3 has both and its forklift looks the other way; 5 has no person.
        assert_eq!(found(&both, 9), [(8, 0.9), (5, -0.3), (3, -0.5)]);
    }

    #[test]
    fn vectors_of_another_length_are_left_out() {
        let mut gallery = gallery();
        assert!(!gallery.add(9, None, &[1.0]));
        assert!(!gallery.add(9, None, &[]));
        assert_eq!(gallery.len(), 5);
        assert!(gallery.search(&[Probe { class: None, embedding: vec![1.0] }], 3).is_empty());
    }
}
