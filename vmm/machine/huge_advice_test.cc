#include "vmm/machine/huge_advice.h"

#include <string>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

constexpr ByteCount kMemory = ByteCount::MiB(8);

absl::StatusOr<HugeAdvice> Check(uint64_t begin, uint64_t bytes, uint32_t value = QUIRE_ADVISE_HUGE) {
  return CheckHugeAdvice(value, {.begin = ByteCount::Bytes(begin), .size = ByteCount::Bytes(bytes)}, kMemory);
}

TEST(CheckHugeAdviceTest, ThePagesWithinAreMeant) {
  EXPECT_EQ(Check(0, 8 << 20)->range, GfnRange(Gfn(0), Gfn(2048)));
  EXPECT_EQ(Check(2 << 20, 4 << 20)->range, GfnRange(Gfn(512), Gfn(1536)));
  EXPECT_EQ(Check(1, 3 * kPageSize)->range, GfnRange(Gfn(1), Gfn(3)));
  EXPECT_EQ(Check(kPageSize - 1, kPageSize)->range, GfnRange(Gfn(1), Gfn(1)));
}

TEST(CheckHugeAdviceTest, NothingMayBeMeant) {
  for (const uint64_t begin : {uint64_t{0}, uint64_t{1}, uint64_t{8 << 20}}) {
    ASSERT_TRUE(Check(begin, 0).ok()) << begin;
    EXPECT_TRUE(Check(begin, 0)->range.empty()) << begin;
  }
  EXPECT_TRUE(Check(1, 10)->range.empty());
}

TEST(CheckHugeAdviceTest, AdviceIsForOrAgainst) {
  EXPECT_TRUE(Check(0, 0, QUIRE_ADVISE_HUGE)->huge);
  EXPECT_FALSE(Check(0, 0, QUIRE_ADVISE_NO_HUGE)->huge);
  EXPECT_EQ(Check(0, 0, 0).status(), absl::InvalidArgumentError("it wrote 0 to port 0xf6: there is no such advice"));
  EXPECT_EQ(Check(0, 0, ~0u).status(),
            absl::InvalidArgumentError("it wrote 4294967295 to port 0xf6: there is no such advice"));
}

TEST(CheckHugeAdviceTest, WhatIsNotInItsMemoryIsRefusedHoweverLarge) {
  EXPECT_EQ(Check(0x1000, 0x800000).status(),
            absl::InvalidArgumentError(
                "it gave advice on 0x800000 bytes from offset 0x1000 of its memory, which has 0x800000 bytes"));
  constexpr uint64_t kMost = ~uint64_t{0};
  for (const uint64_t begin : {uint64_t{1}, kMemory.in_bytes() + 1, kMost - 4095, kMost}) {
    EXPECT_FALSE(Check(begin, kMemory.in_bytes()).ok()) << begin;
    EXPECT_FALSE(Check(begin, kMost).ok()) << begin;
    EXPECT_FALSE(Check(begin, 0 - begin).ok()) << begin << ": the end is 0, modulo 2^64";
  }
  EXPECT_FALSE(Check(kMost, 0).ok());
}

}  // namespace
}  // namespace quire
