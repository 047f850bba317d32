// The same function in two files that are compiled for different CPUs. Nothing that is inline may be included there:
// the linker keeps one copy of such a function, which might be the one for the better CPU.
#ifndef QUIRE_GUEST_MERGE_PAGE_HASH_VECTORS_H_
#define QUIRE_GUEST_MERGE_PAGE_HASH_VECTORS_H_

#include <stdint.h>

namespace quire {

uint64_t HashPageBaseline(const void* page, uint64_t seed);
uint64_t HashPageAvx2(const void* page, uint64_t seed);

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_PAGE_HASH_VECTORS_H_
