// Compiled with -mavx2.
#include "guest/merge/page_hash_vectors.h"
#include "xxhash.h"

namespace quire {

uint64_t HashPageAvx2(const void* page, uint64_t seed) { return XXH3_64bits_withSeed(page, 4096, seed); }

}  // namespace quire
