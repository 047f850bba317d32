#include "guest/merge/page_hash.h"

#include <array>
#include <random>

#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/merge/page_hash_vectors.h"

namespace quire {
namespace {

TEST(PageHashTest, IsTheSameOnAllCpus) {
  std::mt19937_64 random(1);
  alignas(64) std::array<uint64_t, kPageSize / sizeof(uint64_t)> page;
  for (int round = 0; round < 100; ++round) {
    for (uint64_t& word : page) word = random();
    const uint64_t seed = random();
    const uint64_t hash = HashPageBaseline(page.data(), seed);
    EXPECT_EQ(HashPage(reinterpret_cast<const std::byte*>(page.data()), seed), hash);
    if (__builtin_cpu_supports("avx2")) {
      EXPECT_EQ(HashPageAvx2(page.data(), seed), hash);
    }
  }
}

TEST(PageHashTest, DependsOnEachByteAndOnTheSeed) {
  std::array<std::byte, kPageSize> page = {};
  const uint64_t zeros = HashPage(page.data(), 1);
  EXPECT_NE(HashPage(page.data(), 2), zeros);
  for (std::byte& byte : page) {
    byte = std::byte{1};
    EXPECT_NE(HashPage(page.data(), 1), zeros);
    byte = std::byte{0};
  }
}

}  // namespace
}  // namespace quire
