#include "vmm/machine/wire_request.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

constexpr ByteCount kMemory = ByteCount::MiB(8);

absl::StatusOr<WireRequest> Check(uint64_t begin, uint64_t bytes, uint32_t value = QUIRE_WIRE) {
  return CheckWireRequest(value, {.begin = ByteCount::Bytes(begin), .size = ByteCount::Bytes(bytes)}, kMemory);
}

TEST(CheckWireRequestTest, AllPagesAreMeantOfWhichAByteIs) {
  EXPECT_EQ(Check(0, 8 << 20)->range, GfnRange(Gfn(0), Gfn(2048)));
  EXPECT_EQ(Check(2 << 20, 4 << 20)->range, GfnRange(Gfn(512), Gfn(1536)));
  EXPECT_EQ(Check(1, 3 * kPageSize)->range, GfnRange(Gfn(0), Gfn(4)));
  EXPECT_EQ(Check(kPageSize - 1, 1)->range, GfnRange(Gfn(0), Gfn(1)));
  EXPECT_EQ(Check(kPageSize - 1, 2)->range, GfnRange(Gfn(0), Gfn(2)));
  EXPECT_EQ(Check((8 << 20) - 1, 1)->range, GfnRange(Gfn(2047), Gfn(2048)));
}

TEST(CheckWireRequestTest, NothingMayBeMeant) {
  for (const uint64_t begin : {uint64_t{0}, uint64_t{1}, uint64_t{8 << 20}}) {
    ASSERT_TRUE(Check(begin, 0).ok()) << begin;
    EXPECT_TRUE(Check(begin, 0)->range.empty()) << begin;
  }
}

TEST(CheckWireRequestTest, ARequestIsToWireOrToUnwire) {
  EXPECT_TRUE(Check(0, 1, QUIRE_WIRE)->wire);
  EXPECT_FALSE(Check(0, 1, QUIRE_UNWIRE)->wire);
  EXPECT_EQ(Check(0, 0, 0).status(), absl::InvalidArgumentError("it wrote 0 to port 0xf7: there is no such request"));
  EXPECT_FALSE(Check(0, 0, ~0u).ok());
}

TEST(CheckWireRequestTest, WhatIsNotInItsMemoryIsRefusedHoweverLarge) {
  EXPECT_EQ(Check(0x1000, 0x800000).status(),
            absl::InvalidArgumentError(
                "it asked to wire 0x800000 bytes from offset 0x1000 of its memory, which has 0x800000 bytes"));
  constexpr uint64_t kMost = ~uint64_t{0};
  for (const uint64_t begin : {uint64_t{1}, kMemory.in_bytes() + 1, kMost - 4095, kMost}) {
    EXPECT_FALSE(Check(begin, kMemory.in_bytes()).ok()) << begin;
    EXPECT_FALSE(Check(begin, kMost).ok()) << begin;
    EXPECT_FALSE(Check(begin, 0 - begin).ok()) << begin << ": the end is 0, modulo 2^64";
  }
}

}  // namespace
}  // namespace quire
