// Pages as tests need them: each a function of a kind and a seed.
#ifndef QUIRE_GUEST_TESTING_PAGE_CONTENT_H_
#define QUIRE_GUEST_TESTING_PAGE_CONTENT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

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
inline void FillPage(std::byte* page, Content content, uint64_t seed) {
  uint64_t noise = seed * 0x9e3779b97f4a7c15 | 1;
  for (uint64_t i = 0; i < kPageSize / 8; ++i) {
    noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;  // xorshift64
    uint64_t word = 0;
    if (content == Content::kSameFilled) word = seed;
    if (content == Content::kCompressible) word = i % 4 == 0 ? noise : seed + i / 64;
    if (content == Content::kNoise) word = noise;
    std::memcpy(page + i * 8, &word, 8);
  }
}

inline std::array<std::byte, kPageSize> MakePage(Content content, uint64_t seed) {
  std::array<std::byte, kPageSize> page;
  FillPage(page.data(), content, seed);
  return page;
}

// Whether `page` has the content.
inline bool HasContent(const std::byte* page, Content content, uint64_t seed) {
  std::byte expected[kPageSize];
  FillPage(expected, content, seed);
  return std::memcmp(page, expected, kPageSize) == 0;
}

}  // namespace quire

#endif  // QUIRE_GUEST_TESTING_PAGE_CONTENT_H_
