// Puts what changes from step to step where the other kernels read it: a captured graph freezes
// arguments and addresses.

#define MOST_RANDOM 64  // layers that draw random numbers
#define CANDIDATES 8  // xpnet/step/mixed_precision.py

// See now() in sources.py. An address is 0 if there is no such array.
struct Now {
  real numbers[CANDIDATES][MOST_NUMBERS];  // for `skipped` steps left out, and for more of them
  int skipped, step;
  unsigned long long cost, x, y, weight;
  int keys[2 * MOST_RANDOM];
};

template <int V, class From, class To>
__device__ inline void take_packs(const From* from, To* to, unsigned first, unsigned n) {
  for (unsigned i = first + FIRST * V; i < n; i += STRIDE * V) {
    Pack<From, V> x = load<V>(from + i);
    Pack<To, V> y;
    for (int v = 0; v < V; v++) y.x[v] = x.x[v];
    store(to + i, y);
  }
}

template <class From, class To>
__device__ inline void take(unsigned long long address, To* to, unsigned n) {
  const From* from = (const From*)address;
  const int V = 16 / sizeof(From);
  unsigned whole = aligned(from) && aligned(to) ? n - n % V : 0;
  if (!from) return;
  take_packs<V>(from, to, 0, whole);
  take_packs<1>(from, to, whole, n);
}

// Rows of J numbers to rows of `width`, with zeros behind them.
template <class From, class To>
__device__ inline void take_rows(unsigned long long address, To* to, unsigned n, unsigned J,
                                 unsigned width) {
  const From* from = (const From*)address;
  for (Walk at(width, 1); at.i < n; at.next())
    to[at.i] = at.j < J ? from[(size_t)at.n * J + at.j] : (From)0;
}

// Copies the numbers and the batch: x with J numbers in a row to rows of `width`, rounded to act; labels or rows as targets, the other one
// null; weights or null. Of the numbers, those for as many steps as were skipped; null counts none.
KERNEL begin_step(Now now, const int* skipped, real* c, int* step, unsigned long long* cost_at,
                  int* keys, int n_keys, act* x, int x_size, int J, int width, int* labels,
                  real* rows, int y_size, real* weights, int N) {
  if (FIRST == 0) {
    int more = skipped ? *skipped - now.skipped : 0;
    more = more < 0 ? 0 : more < CANDIDATES ? more : CANDIDATES - 1;
    for (int k = 0; k < MOST_NUMBERS; k++) c[k] = now.numbers[more][k];
    *step = now.step;
    *cost_at = now.cost;
  }
  for (unsigned i = FIRST; i < (unsigned)n_keys; i += STRIDE) keys[i] = now.keys[i];
  if (width > J) take_rows<real>(now.x, x, x_size, J, width);
  else take<real>(now.x, x, x_size);
  if (labels) take<int>(now.y, labels, y_size);
  if (rows) take<real>(now.y, rows, y_size);
  if (weights) take<real>(now.weight, weights, N);
}
