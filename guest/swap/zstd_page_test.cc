#include "guest/swap/zstd_page.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/testing/page_content.h"
#include "zstd.h"

namespace quire {
namespace {

using Page = std::array<std::byte, kPageSize>;
using Bytes = std::vector<std::byte>;

constexpr size_t kMost = 3000;

class ZstdPageTest : public ::testing::Test {
 protected:
  Bytes Compress(const Page& page) {
    const absl::Span<const std::byte> bytes = compressor_.Compress(page.data(), kMost);
    return Bytes(bytes.begin(), bytes.end());
  }

  ZstdCompressor compressor_;
  ZstdDecompressors decompressors_;
  Page made_ = {};
};

TEST_F(ZstdPageTest, APageComesBackByteForByte) {
  for (const Content content : {Content::kZero, Content::kSameFilled, Content::kCompressible}) {
    const Page page = MakePage(content, 7);
    const Bytes bytes = Compress(page);
    ASSERT_FALSE(bytes.empty());
    ASSERT_TRUE(decompressors_.Decompress(bytes, made_.data()));
    EXPECT_EQ(made_, page);
  }
}

TEST_F(ZstdPageTest, WhatWouldTakeTooMuchIsEmpty) {
  EXPECT_TRUE(Compress(MakePage(Content::kNoise, 1)).empty());
  const Page page = MakePage(Content::kCompressible, 1);
  const size_t length = Compress(page).size();
  EXPECT_EQ(compressor_.Compress(page.data(), length).size(), length);
  EXPECT_TRUE(compressor_.Compress(page.data(), length - 1).empty());
}

// Whoever keeps pages has a hash of the content to find the other damage.
TEST_F(ZstdPageTest, DamageIsRefusedOrMakesAPage) {
  const Bytes sound = Compress(MakePage(Content::kCompressible, 1));
  for (size_t length = 0; length < sound.size(); ++length) {
    EXPECT_FALSE(decompressors_.Decompress({sound.data(), length}, made_.data())) << length;
  }
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    Bytes damaged = sound;
    for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
      damaged[random() % (i % 2 == 0 ? 16 : damaged.size())] ^= static_cast<std::byte>(1 + random() % 255);
    }
    refused += !decompressors_.Decompress(damaged, made_.data());
  }
  EXPECT_GT(refused, 10'000);
}

TEST_F(ZstdPageTest, NothingMayFollowTheFrame) {
  Bytes bytes = Compress(MakePage(Content::kSameFilled, 1));
  Bytes twice = bytes;
  const uint32_t magic = ZSTD_MAGICNUMBER;
  twice.resize(bytes.size() + sizeof magic);
  std::memcpy(twice.data() + bytes.size(), &magic, sizeof magic);
  twice.insert(twice.end(), bytes.begin(), bytes.end());
  EXPECT_FALSE(decompressors_.Decompress(twice, made_.data()));
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decompressors_.Decompress(bytes, made_.data()));
}

TEST_F(ZstdPageTest, ThereAreAsManyContextsAsLoadsAtATime) {
  const Page page = MakePage(Content::kCompressible, 1);
  const Bytes bytes = Compress(page);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(decompressors_.Decompress(bytes, made_.data()));
  const ByteCount one = decompressors_.metadata();
  EXPECT_LT(one, ByteCount::KiB(128));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Page made;
      for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(decompressors_.Decompress(bytes, made.data()));
        ASSERT_EQ(made, page);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(decompressors_.metadata().in_bytes(), 5 * one.in_bytes());
}

}  // namespace
}  // namespace quire
