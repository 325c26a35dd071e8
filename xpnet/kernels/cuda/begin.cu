// Puts what changes from step to step where the other kernels read it: a captured graph freezes
// arguments and addresses.

#define MOST_RANDOM 64  // layers that draw random numbers
#define CANDIDATES 8  // xpnet/step/mixed_precision.py
#define MOST_WORDS 448  // that are passed by value: a kernel's arguments take 4 KiB at most

// The numbers of a step; behind it lie `sets` times `n_numbers` coefficients of the update, for as
// many steps as were skipped and for more of them, and then the keys. An address is 0 if there is
// no such array: of x there are the numbers, or what layers store of them. With an order, the batch
// is those rows of x, y and weight. See sources.py.
struct Now {
  unsigned long long cost, x, stored, y, weight, order;
  int step, skipped;
};

struct Given { unsigned long long words[MOST_WORDS]; };  // of one step, or of several in a row

// Copies rows of J numbers to rows of `width` with zeros behind them, V at a time.
template <int V, class From, class To>
__device__ inline void take_packs(const From* from, To* to, const int* order, unsigned J,
                                  unsigned width, unsigned size) {
  for (Walk at(width, V); at.i < size; at.next()) {
    Pack<To, V> y = {};
    if (at.j < J) {
      size_t row = order ? order[at.n] : at.n;
      Pack<From, V> x = load<V>(from + row * J + at.j);
      for (int v = 0; v < V; v++) y.x[v] = x.x[v];
    }
    store(to + at.i, y);
  }
}

template <class From, class To>
__device__ inline void take(unsigned long long address, To* to, const int* order, unsigned J,
                            unsigned width, unsigned N) {
  const From* from = (const From*)address;
  const int V = 16 / sizeof(From);
  unsigned size = N * width;
  if (!from || !size) return;  // a rank may have no rows
  if (!order && J == width) J = width = size;  // one long row
  if (J % V == 0 && width % V == 0 && aligned(from) && aligned(to))
    take_packs<V>(from, to, order, J, width, size);
  else
    take_packs<1>(from, to, order, J, width, size);
}

// Where they go. x (N, J) is rounded to act, with rows of `width`; labels or rows (N, K) are targets,
// the other one null; weights may be null. Of the coefficients, those for as many steps as were
// skipped; null counts none.
#define BATCH int n_numbers, int sets, const int* skipped, real* c, int* step, \
              unsigned long long* cost_at, int* keys, int n_keys, act* x, int J, int width, \
              int* labels, real* rows, int K, real* weights, int N
#define SAME_BATCH n_numbers, sets, skipped, c, step, cost_at, keys, n_keys, x, J, width, labels, \
                   rows, K, weights, N

__device__ inline void begin(const unsigned long long* words, BATCH) {
  const Now& now = *(const Now*)words;
  const real* numbers = (const real*)(words + sizeof(Now) / 8);
  const int *new_keys = (const int*)(numbers + sets * n_numbers), *order = (const int*)now.order;
  if (FIRST == 0) {
    int more = skipped ? *skipped - now.skipped : 0;
    more = more < 0 ? 0 : more < sets ? more : sets - 1;
    for (int k = 0; k < n_numbers; k++) c[k] = numbers[more * n_numbers + k];
    *step = now.step;
    *cost_at = now.cost;
  }
  for (unsigned i = FIRST; i < (unsigned)n_keys; i += STRIDE) keys[i] = new_keys[i];
  take<real>(now.x, x, order, J, width, N);
  take<act>(now.stored, x, order, J, width, N);
  if (labels) take<int>(now.y, labels, order, 1, 1, N);
  if (rows) take<real>(now.y, rows, order, K, K, N);
  if (weights) take<real>(now.weight, weights, order, 1, 1, N);
}

// Begins the first of the steps that are given, and keeps the words of all for the others.
KERNEL begin_step(const Given given, unsigned long long* kept, int words, BATCH) {
  for (unsigned i = FIRST; i < (unsigned)words; i += STRIDE) kept[i] = given.words[i];
  begin(given.words, SAME_BATCH);
}

KERNEL begin_next(const unsigned long long* kept, BATCH) { begin(kept, SAME_BATCH); }
