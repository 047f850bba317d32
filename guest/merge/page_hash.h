// The content hash of a page: XXH3, which comes out the same whatever instructions compute it.
#ifndef QUIRE_GUEST_MERGE_PAGE_HASH_H_
#define QUIRE_GUEST_MERGE_PAGE_HASH_H_

#include <cstddef>
#include <cstdint>

namespace quire {

// Of 4096 bytes. With AVX2 where the CPU has it: a page that is in a cache takes less than half as long as with SSE2,
// and one that is not, no longer than reading it does. The bytes may change meanwhile; the hash is then one of neither
// content.
uint64_t HashPage(const std::byte* page, uint64_t seed);

}  // namespace quire

#endif  // QUIRE_GUEST_MERGE_PAGE_HASH_H_
