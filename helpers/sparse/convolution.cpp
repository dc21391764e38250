// Convolutions and matrix products that touch the non-zero weights only.
//
// Every function works the same way. A task is one tile of outputs: some positions of some images for a chunk of filters.
// The inputs are taken in blocks of channels; a block's share of the tile is packed so that it stays in the L1 cache
// (zero padding, stride and kernel shifts are resolved while packing), then every filter runs over its own list of
// (offset, value) pairs for that block: one broadcast of the value, one multiply-add for each accumulator, and all
// accumulators of the tile live in registers. Between blocks the partial sums rest in a scratch buffer.
//
// Two layouts of the activations:
//   images     [N / V][C][H][W][V]  a vector holds one position of V images (large batches)
//   positions  [N][C][H][W]         a vector holds neighbouring positions of one image (small batches)
//
// Lists: the pairs of channel block b and filter f are those from starts[b * filters + f] to the next start; offsets count
// vectors (images) or floats (positions, single) from the beginning of the packed block.
//
// The interface is plain C and OpenMP is all it needs, so that the file compiles in seconds; sizes and dtypes are checked by the
// Python side, which also says on how many threads to run.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// One layer as Python describes it; keep in step with `Layer` in kernels.py.
struct Layer {
  const float* values;
  const uint16_t* offsets;
  const int32_t* starts;
  const float* bias;
  int64_t filters, blocks, block;  // filters; blocks of input channels; channels a block
  int64_t channels, height, width, kernel, stride, padding, out_height, out_width;
  int64_t rows, columns;  // of the tile
  int64_t lanes;          // images a vector
  int64_t relu, pool;
};

namespace {

// Keeps an address in one register with constant displacements; left alone, GCC spreads it over sixteen.
#define OPAQUE(pointer) asm("" : "+r"(pointer))

template <int V>
struct Vector {
  typedef float type __attribute__((vector_size(V * sizeof(float)), aligned(4), may_alias));
};

#if defined(__AVX512F__)
constexpr int kWidest = 16;
#elif defined(__AVX__)
constexpr int kWidest = 8;
#else
constexpr int kWidest = 4;
#endif
constexpr int kMostAccumulators = 8;  // contiguous vectors of a positions tile

// A buffer of the calling thread for the packed tile (0) or the partial sums (1). The inner loop reads it at random, and one
// huge page serves that up to 1.5 times faster than many small ones.
float* scratch(int which, int64_t count) {
  struct Buffer {
    void* memory = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(memory); }
  };
  static thread_local Buffer buffers[2];
  constexpr int64_t page = int64_t(1) << 21;
  Buffer& buffer = buffers[which];
  const int64_t size = (count * static_cast<int64_t>(sizeof(float)) + page - 1) / page * page;
  if (buffer.size < size) {
    std::free(buffer.memory);
    buffer.size = 0;
    buffer.memory = std::aligned_alloc(page, size);
    if (buffer.memory == nullptr) throw std::bad_alloc();
    buffer.size = size;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(buffer.memory, size, MADV_HUGEPAGE);  // a hint: where it fails, pages stay small
#endif
  }
  return static_cast<float*>(buffer.memory);
}

// sums[r][c] += sum over the list of value * x[offset + r * S + c]; S is the row stride of the packed tile in vectors, and
// the unit of the offsets is U floats. The first block starts from the bias.
template <int V, int R, int C, int S, int U>
void accumulate(const float* __restrict x, const Layer& layer, int64_t filter, int64_t block, float* __restrict sums) {
  using vector = typename Vector<V>::type;
  constexpr int T = R * C;
  constexpr int ways = T >= 4 ? 1 : 4 / T;  // few accumulators: independent copies hide the latency of the addition
  const int32_t* start = layer.starts + block * layer.filters + filter;
  const float* __restrict values = layer.values;
  const uint16_t* __restrict offsets = layer.offsets;
  vector acc[ways][T];
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    acc[0][t] = block == 0 ? vector{} + layer.bias[filter] : *reinterpret_cast<const vector*>(sums + t * V);
#pragma GCC unroll 4
    for (int w = 1; w < ways; ++w) acc[w][t] = vector{};
  }
  int32_t i = start[0];
  const int32_t end = start[1];
  for (; i + ways <= end; i += ways) {
#pragma GCC unroll 4
    for (int w = 0; w < ways; ++w) {
      const float value = values[i + w];
      const float* p = x + static_cast<size_t>(offsets[i + w]) * U;
      OPAQUE(p);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
        for (int c = 0; c < C; ++c)
          acc[w][r * C + c] += value * *reinterpret_cast<const vector*>(p + (r * S + c) * V);
    }
  }
  if constexpr (ways > 1)
    for (; i < end; ++i) {
      const float* p = x + static_cast<size_t>(offsets[i]) * U;
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) acc[0][t] += values[i] * *reinterpret_cast<const vector*>(p + t * V);
    }
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    vector sum = acc[0][t];
#pragma GCC unroll 4
    for (int w = 1; w < ways; ++w) sum += acc[w][t];
    *reinterpret_cast<vector*>(sums + t * V) = sum;
  }
}

// Shares the tasks out evenly, at least `grain` a thread. The team is always the whole one, whose threads OpenMP then keeps.
template <typename Body>
void parallel(int64_t tasks, int64_t grain, int64_t threads, const Body& body) {
  const int64_t parts = std::min(threads, (tasks + grain - 1) / grain);
#pragma omp parallel for schedule(static) num_threads(threads) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) body(tasks * part / parts, tasks * (part + 1) / parts);
}

// How many filters a task takes: at most 128, and fewer where there are too few tiles to keep the threads busy.
int64_t filters_per_task(int64_t filters, int64_t tiles, int64_t even, int64_t threads) {
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;
  const int64_t chunks = std::max((filters + 127) / 128, (wanted + tiles - 1) / tiles);
  const int64_t size = std::max<int64_t>(8, (filters + chunks - 1) / chunks);
  return (size + even - 1) / even * even;
}

// Which columns of a packed row lie in the image: from `before` to `until`; column q is input column first + q * stride.
struct Span {
  int64_t first, before, until;
  Span(const Layer& g, int64_t from, int64_t columns) : first(from) {
    before = from < 0 ? std::min((-from + g.stride - 1) / g.stride, columns) : 0;
    until = std::max(before, from < g.width ? std::min((g.width - 1 - from) / g.stride + 1, columns) : 0);
  }
};

// ------------------------------------------------------------------------------------------------ images in the vector

// packed[c][phase y][phase x][row][column] of one tile, zero outside the image
template <int V>
void pack_images(const float* image, const Layer& g, int64_t c0, int64_t c1, int64_t y0, int64_t x0, int64_t rows,
                 int64_t columns, float* packed) {
  using vector = typename Vector<V>::type;
  vector* out = reinterpret_cast<vector*>(packed);
  for (int64_t c = c0; c < c1; ++c)
    for (int64_t py = 0; py < g.stride; ++py)
      for (int64_t px = 0; px < g.stride; ++px) {
        const Span span(g, x0 * g.stride + px - g.padding, columns);
        for (int64_t r = 0; r < rows; ++r, out += columns) {
          const int64_t y = (y0 + r) * g.stride + py - g.padding;
          const bool outside = y < 0 || y >= g.height;
          const vector* row = reinterpret_cast<const vector*>(image) + (c * g.height + y) * g.width + span.first;
          const int64_t before = outside ? columns : span.before, until = outside ? columns : span.until;
          for (int64_t q = 0; q < before; ++q) out[q] = vector{};
          for (int64_t q = before; q < until; ++q) out[q] = row[q * g.stride];
          for (int64_t q = until; q < columns; ++q) out[q] = vector{};
        }
      }
}

// Asks for the input of a later block while this one is computed: its rows lie far apart, where no prefetcher of the processor
// follows. Called once a filter, `part` of `parts`.
template <int V>
void prefetch_images(const float* image, const Layer& g, int64_t block, int64_t y0, int64_t x0, int64_t rows, int64_t columns,
                     int64_t part, int64_t parts) {
  const int64_t c0 = block * g.block, count = (std::min(c0 + g.block, g.channels) - c0) * rows;
  const Span span(g, x0 * g.stride - g.padding, columns);
  for (int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i) {
    const int64_t y = (y0 + i % rows) * g.stride - g.padding;
    if (y < 0 || y >= g.height) continue;
    const float* row = image + (((c0 + i / rows) * g.height + y) * g.width + span.first) * V;
    for (int64_t q = span.before * V; q < span.until * V; q += 16) __builtin_prefetch(row + q * g.stride, 0, 2);
  }
}

// NaN where either is: of vectors or of numbers.
template <typename type>
inline type larger(type a, type b) {
  return ((a < b) | (b != b)) ? b : a;
}

// The largest of a 2x2 window, NaN where one of them is. Of numbers, their sum finds a NaN sooner; it also stops at infinities of
// both signs, to which the slower answer is right as well.
template <typename type>
inline type largest(type a, type b, type c, type d) {
  if constexpr (std::is_same_v<type, float>) {
    const float sum = (a + b) + (c + d);
    if (__builtin_expect(sum == sum, 1)) return std::max(std::max(a, b), std::max(c, d));
  }
  return larger(larger(a, b), larger(c, d));
}

// NaN where x is.
template <typename type>
inline type at_least(type least, type x) {
  return x < least ? least : x;
}

// The finished sums of one filter's tile, to the output: ReLU, then the maximum of each 2x2 if the layer pools.
template <int V, int C>
void store_images(const Layer& g, const float* sums, float* plane, int64_t y0, int64_t x0, int64_t rows, int64_t columns) {
  using vector = typename Vector<V>::type;
  const vector* sum = reinterpret_cast<const vector*>(sums);
  const int64_t width = g.pool ? g.out_width / 2 : g.out_width;
  if (g.pool) {
    for (int64_t r = 0; r + 1 < rows; r += 2)
      for (int64_t q = 0; q + 1 < columns; q += 2) {
        const vector* s = sum + r * C + q;
        const vector most = largest<vector>(s[0], s[1], s[C], s[C + 1]);
        float* to = plane + ((y0 + r) / 2 * width + (x0 + q) / 2) * V;
        *reinterpret_cast<vector*>(to) = g.relu ? at_least(vector{}, most) : most;
      }
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < columns; ++q) {
        const vector v = sum[r * C + q];
        *reinterpret_cast<vector*>(plane + ((y0 + r) * width + x0 + q) * V) = g.relu ? at_least(vector{}, v) : v;
      }
  }
}

template <int V, int R, int C, int E>
void conv_images_tiled(const Layer& g, const float* x, float* out, int64_t images, int64_t threads) {
  const int64_t rows = R + E, columns = C + E, area = rows * columns * g.stride * g.stride;
  const int64_t tiles_y = (g.out_height + R - 1) / R, tiles_x = (g.out_width + C - 1) / C;
  const int64_t tiles = images * tiles_y * tiles_x;
  const int64_t chunk = filters_per_task(g.filters, tiles, 1, threads), chunks = (g.filters + chunk - 1) / chunk;
  const int64_t plane = g.pool ? (g.out_height / 2) * (g.out_width / 2) : g.out_height * g.out_width;
  parallel(tiles * chunks, 1, threads, [&](int64_t begin, int64_t end) {
    float* packed = scratch(0, g.block * area * V);
    float* sums = scratch(1, chunk * R * C * V);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters);
      const int64_t tile = task / chunks, x0 = tile % tiles_x * C, y0 = tile / tiles_x % tiles_y * R;
      const int64_t image = tile / tiles_x / tiles_y;
      const float* from = x + image * g.channels * g.height * g.width * V;
      for (int64_t b = 0; b < g.blocks; ++b) {
        pack_images<V>(from, g, b * g.block, std::min((b + 1) * g.block, g.channels), y0, x0, rows, columns, packed);
        const bool last = b + 1 == g.blocks;  // then the next tile of the row follows
        const bool more = !last || x0 + C < g.out_width;
        for (int64_t f = f0; f < f1; ++f) {
          if (more) prefetch_images<V>(from, g, last ? 0 : b + 1, y0, last ? x0 + C : x0, rows, columns, f - f0, f1 - f0);
          accumulate<V, R, C, C + E, V>(packed, g, f, b, sums + (f - f0) * R * C * V);
        }
      }
      for (int64_t f = f0; f < f1; ++f)
        store_images<V, C>(g, sums + (f - f0) * R * C * V, out + (image * g.filters + f) * plane * V, y0, x0,
                           std::min<int64_t>(R, g.out_height - y0), std::min<int64_t>(C, g.out_width - x0));
    }
  });
}

// A matrix product, G blocks of V images at a time. With `pool` each four neighbouring outputs (a 2x2 map) become one.
template <int V, int G>
void product_images_grouped(const Layer& g, const float* x, float* out, int64_t images, int64_t threads) {
  using vector = typename Vector<V>::type;
  const int64_t groups = (images + G - 1) / G, step = g.pool ? 4 : 1, outputs = g.filters / step;
  const int64_t chunk = filters_per_task(g.filters, groups, 4, threads), chunks = (g.filters + chunk - 1) / chunk;
  parallel(groups * chunks, 1, threads, [&](int64_t begin, int64_t end) {
    float* packed = scratch(0, g.block * G * V);
    float* sums = scratch(1, chunk * G * V);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters), i0 = task / chunks * G;
      const int64_t present = std::min<int64_t>(G, images - i0);
      for (int64_t b = 0; b < g.blocks; ++b) {
        const int64_t c0 = b * g.block, c1 = std::min(c0 + g.block, g.channels);
        for (int64_t i = 0; i < G; ++i) {
          const float* from = x + ((i0 + std::min(i, present - 1)) * g.channels + c0) * V;
          for (int64_t c = 0; c < c1 - c0; ++c) std::memcpy(packed + (c * G + i) * V, from + c * V, V * sizeof(float));
        }
        for (int64_t f = f0; f < f1; ++f) accumulate<V, 1, G, 0, G * V>(packed, g, f, b, sums + (f - f0) * G * V);
      }
      const vector* sum = reinterpret_cast<const vector*>(sums);
      for (int64_t i = 0; i < present; ++i)
        for (int64_t f = f0; f < f1; f += step) {
          vector most = sum[(f - f0) * G + i];
          for (int64_t s = 1; s < step; ++s) most = larger(most, sum[(f - f0 + s) * G + i]);
          *reinterpret_cast<vector*>(out + ((i0 + i) * outputs + f / step) * V) = g.relu ? at_least(vector{}, most) : most;
        }
    }
  });
}

template <int V>
void product_images_of(const Layer& g, const float* x, float* out, int64_t images, int64_t threads) {
  if (images >= 8) return product_images_grouped<V, 8>(g, x, out, images, threads);
  if (images >= 4) return product_images_grouped<V, 4>(g, x, out, images, threads);
  if (images >= 2) return product_images_grouped<V, 2>(g, x, out, images, threads);
  product_images_grouped<V, 1>(g, x, out, images, threads);
}

// --------------------------------------------------------------------------------------------- positions in the vector

// packed[c][kernel column][phase y][row][column]: one shifted copy a kernel column, so that a tile is contiguous
void pack_positions(const float* image, const Layer& g, int64_t c0, int64_t c1, int64_t y0, int64_t x0, int64_t rows,
                    float* out) {
  for (int64_t c = c0; c < c1; ++c)
    for (int64_t kx = 0; kx < g.kernel; ++kx) {
      const Span span(g, x0 * g.stride + kx - g.padding, g.columns);
      for (int64_t py = 0; py < g.stride; ++py)
        for (int64_t r = 0; r < rows; ++r, out += g.columns) {
          const int64_t y = (y0 + r) * g.stride + py - g.padding;
          if (y < 0 || y >= g.height) {
            std::memset(out, 0, g.columns * sizeof(float));
            continue;
          }
          const float* row = image + (c * g.height + y) * g.width + span.first;
          for (int64_t q = 0; q < span.before; ++q) out[q] = 0;
          if (g.stride == 1)  // a plain copy, which the compiler makes vectors of
            for (int64_t q = span.before; q < span.until; ++q) out[q] = row[q];
          else
            for (int64_t q = span.before; q < span.until; ++q) out[q] = row[q * g.stride];
          for (int64_t q = span.until; q < g.columns; ++q) out[q] = 0;
        }
    }
}

using Accumulate = void (*)(const float*, const Layer&, int64_t, int64_t, float*);

// The kernel for a tile of so many positions, and how many it computes; nullptr where they do not fit the registers.
Accumulate positions_kernel(int64_t positions, int64_t* computed) {
  constexpr int W = kWidest;
  static_assert(kMostAccumulators == 8, "one case an accumulator");
  *computed = positions <= 4 ? 4 : positions <= 8 ? 8 : (positions + W - 1) / W * W;
  if (*computed == 4) return accumulate<4, 1, 1, 0, 1>;
  if (*computed == 8 && W == 16) return accumulate<8, 1, 1, 0, 1>;
  switch (*computed / W) {
    case 1: return accumulate<W, 1, 1, 0, 1>;
    case 2: return accumulate<W, 1, 2, 0, 1>;
    case 3: return accumulate<W, 1, 3, 0, 1>;
    case 4: return accumulate<W, 1, 4, 0, 1>;
    case 5: return accumulate<W, 1, 5, 0, 1>;
    case 6: return accumulate<W, 1, 6, 0, 1>;
    case 7: return accumulate<W, 1, 7, 0, 1>;
    case 8: return accumulate<W, 1, 8, 0, 1>;
  }
  return nullptr;
}

void store_positions(const Layer& g, const float* sum, float* plane, int64_t y0, int64_t x0) {
  const int64_t rows = std::min(g.rows, g.out_height - y0), columns = std::min(g.columns, g.out_width - x0);
  const float least = g.relu ? 0 : -std::numeric_limits<float>::infinity();
  if (g.pool) {
    for (int64_t r = 0; r + 1 < rows; r += 2)
      for (int64_t q = 0; q + 1 < columns; q += 2) {
        const float* s = sum + r * g.columns + q;
        const float most = largest(s[0], s[1], s[g.columns], s[g.columns + 1]);
        plane[(y0 + r) / 2 * (g.out_width / 2) + (x0 + q) / 2] = at_least(least, most);
      }
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t q = 0; q < columns; ++q)
        plane[(y0 + r) * g.out_width + x0 + q] = at_least(least, sum[r * g.columns + q]);
  }
}

constexpr int64_t kPiece = 256;  // floats of an image that one task transposes

}  // namespace

extern "C" {

int widest() { return kWidest; }
int most_accumulators() { return kMostAccumulators; }

// [N][size] -> [N / lanes][size][lanes], the last block filled up with zeros
int to_images(const float* x, float* out, int64_t n, int64_t size, int64_t lanes, int64_t threads) {
  const int64_t pieces = (size + kPiece - 1) / kPiece;
  parallel((n + lanes - 1) / lanes * pieces, 4, threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / pieces, i0 = task % pieces * kPiece, i1 = std::min(i0 + kPiece, size);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t image = b * lanes + lane;
        float* to = out + b * size * lanes + lane;
        for (int64_t i = i0; i < i1; ++i) to[i * lanes] = image < n ? x[image * size + i] : 0;
      }
    }
  });
  return 0;
}

// [N / lanes][size][lanes] -> [N][size]
int from_images(const float* x, float* out, int64_t n, int64_t size, int64_t lanes, int64_t threads) {
  const int64_t pieces = (size + kPiece - 1) / kPiece;
  parallel(n * pieces, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / pieces, i0 = task % pieces * kPiece, i1 = std::min(i0 + kPiece, size);
      const float* from = x + image / lanes * size * lanes + image % lanes;
      for (int64_t i = i0; i < i1; ++i) out[image * size + i] = from[i * lanes];
    }
  });
  return 0;
}

// [blocks of images][C][H][W][lanes] -> [blocks][filters][H'][W'][lanes]; 1 where no kernel fits the layer
int conv_images(const Layer* layer, const float* x, float* out, int64_t images, int64_t threads) {
  const Layer& g = *layer;
  const int64_t reach = (g.kernel - 1) / g.stride;
#define TILE(V, R, C, E)                                             \
  if (g.lanes == V && g.rows == R && g.columns == C && reach == E) { \
    conv_images_tiled<V, R, C, E>(g, x, out, images, threads);       \
    return 0;                                                        \
  }
#define TILES(V, R, C) TILE(V, R, C, 0) TILE(V, R, C, 1) TILE(V, R, C, 2) TILE(V, R, C, 4)
#if defined(__AVX512F__)
  TILES(16, 4, 4)
#elif defined(__AVX__)
  TILES(8, 4, 2)
#else
  TILES(4, 4, 4)
#endif
#undef TILES
#undef TILE
  return 1;
}

// [blocks of images][channels][lanes] -> [blocks][filters, or a quarter of them with `pool`][lanes]; 1 for other lanes
int product_images(const Layer* layer, const float* x, float* out, int64_t images, int64_t threads) {
  if (layer->lanes != kWidest) return 1;
  product_images_of<kWidest>(*layer, x, out, images, threads);
  return 0;
}

// [N][C][H][W] -> [N][filters][H'][W']; 1 where the tile does not fit the registers
int conv_positions(const Layer* layer, const float* x, float* out, int64_t images, int64_t threads) {
  const Layer& g = *layer;
  int64_t computed = 0;
  const Accumulate kernel = positions_kernel(g.rows * g.columns, &computed);
  if (kernel == nullptr) return 1;
  const int64_t packed_rows = g.rows + (g.kernel - 1) / g.stride, area = g.kernel * g.stride * packed_rows * g.columns;
  const int64_t tiles_y = (g.out_height + g.rows - 1) / g.rows, tiles_x = (g.out_width + g.columns - 1) / g.columns;
  const int64_t tiles = images * tiles_y * tiles_x;
  const int64_t chunk = filters_per_task(g.filters, tiles, 1, threads), chunks = (g.filters + chunk - 1) / chunk;
  const int64_t plane = g.pool ? (g.out_height / 2) * (g.out_width / 2) : g.out_height * g.out_width;
  parallel(tiles * chunks, 1, threads, [&](int64_t begin, int64_t end) {
    float* packed = scratch(0, g.block * area + computed);  // the last vector may reach past the tile
    float* sums = scratch(1, chunk * computed);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters);
      const int64_t tile = task / chunks, x0 = tile % tiles_x * g.columns, y0 = tile / tiles_x % tiles_y * g.rows;
      const int64_t image = tile / tiles_x / tiles_y;
      for (int64_t b = 0; b < g.blocks; ++b) {
        const int64_t c0 = b * g.block, c1 = std::min(c0 + g.block, g.channels);
        pack_positions(x + image * g.channels * g.height * g.width, g, c0, c1, y0, x0, packed_rows, packed);
        for (int64_t f = f0; f < f1; ++f) kernel(packed, g, f, b, sums + (f - f0) * computed);
      }
      for (int64_t f = f0; f < f1; ++f)
        store_positions(g, sums + (f - f0) * computed, out + (image * g.filters + f) * plane, y0, x0);
    }
  });
  return 0;
}

// A matrix product for few images, [N][channels] -> [N][filters]: every output gathers its own inputs.
int product_single(const Layer* layer, const float* x, float* out, int64_t images, int64_t threads) {
  const Layer& g = *layer;
  parallel(images * g.filters, 64, threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f = task % g.filters;
      float sum[4] = {g.bias[f], 0, 0, 0};
      for (int64_t b = 0; b < g.blocks; ++b) {
        const float* input = x + task / g.filters * g.channels + b * g.block;
        int32_t i = g.starts[b * g.filters + f];
        const int32_t last = g.starts[b * g.filters + f + 1];
        for (; i + 4 <= last; i += 4)
          for (int w = 0; w < 4; ++w) sum[w] += g.values[i + w] * input[g.offsets[i + w]];
        for (; i < last; ++i) sum[0] += g.values[i] * input[g.offsets[i]];
      }
      const float total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      out[task] = g.relu ? at_least(0.0f, total) : total;
    }
  });
  return 0;
}

}  // extern "C"
