// In a file of its own, because tests are not optimized: much of what many of them do is this.
#include "guest/testing/page_content.h"

#include <cstring>

namespace quire {

void FillPage(std::byte* page, Content content, uint64_t seed) {
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

bool HasContent(const std::byte* page, Content content, uint64_t seed) {
  std::byte expected[kPageSize];
  FillPage(expected, content, seed);
  return std::memcmp(page, expected, kPageSize) == 0;
}

}  // namespace quire
