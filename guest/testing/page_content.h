// Pages as tests need them: each a function of a kind and a seed.
#ifndef QUIRE_GUEST_TESTING_PAGE_CONTENT_H_
#define QUIRE_GUEST_TESTING_PAGE_CONTENT_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace quire {

enum class Content : uint8_t {
  kZero,
  kSameFilled,    // one word all over: the seed
  kCompressible,  // to about a third
  kNoise,         // not compressible
};
inline constexpr int kContents = 4;

// Writes the 4 KiB at `page`.
void FillPage(std::byte* page, Content content, uint64_t seed);

inline std::array<std::byte, kPageSize> MakePage(Content content, uint64_t seed) {
  std::array<std::byte, kPageSize> page;
  FillPage(page.data(), content, seed);
  return page;
}

// Whether `page` has the content.
bool HasContent(const std::byte* page, Content content, uint64_t seed);

}  // namespace quire

#endif  // QUIRE_GUEST_TESTING_PAGE_CONTENT_H_
