#include "vmm/devices/bus.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

// Remembers where it was accessed last; reads as sevens.
class Recorder : public BusDevice {
 public:
  void Read(uint64_t offset, absl::Span<std::byte> data) override {
    at = offset;
    size = data.size();
    std::fill(data.begin(), data.end(), std::byte{7});
  }
  void Write(uint64_t offset, absl::Span<const std::byte> data) override {
    at = offset;
    size = data.size();
    written = data[0];
  }
  uint64_t at = 0;
  size_t size = 0;
  std::byte written{};
};

struct BusTest : testing::Test {
  bool Read(uint64_t address, size_t size) { return bus.Read(address, absl::MakeSpan(bytes).first(size)); }
  bool Write(uint64_t address, size_t size) { return bus.Write(address, absl::MakeConstSpan(bytes).first(size)); }

  Recorder first, second;
  Bus bus;
  std::array<std::byte, 8> bytes = {};
};

TEST_F(BusTest, FindsADevice) {
  bus.Attach(0x100, 8, &first);
  bus.Attach(0x108, 4, &second);
  bytes[0] = std::byte{5};
  EXPECT_TRUE(Write(0x109, 2));
  EXPECT_EQ(second.at, 1);
  EXPECT_EQ(second.size, 2);
  EXPECT_EQ(second.written, std::byte{5});
  EXPECT_TRUE(Read(0x100, 8));
  EXPECT_EQ(first.size, 8);
  EXPECT_EQ(bytes[7], std::byte{7});
}

TEST_F(BusTest, ReadsAllOnesWhereNobodyIs) {
  bus.Attach(0x100, 8, &first);
  for (const uint64_t address : {uint64_t{0}, uint64_t{0xff}, uint64_t{0x108}, std::numeric_limits<uint64_t>::max()}) {
    bytes = {};
    EXPECT_FALSE(Read(address, 1));
    EXPECT_EQ(bytes[0], std::byte{0xff});
    EXPECT_EQ(bytes[1], std::byte{0}) << "past what was read";
    EXPECT_FALSE(Write(address, 1));
  }
  EXPECT_EQ(first.size, 0);
}

TEST_F(BusTest, GivesNobodyAnAccessThatRunsOverAnEnd) {
  bus.Attach(0x100, 8, &first);
  bus.Attach(0x108, 8, &second);
  EXPECT_FALSE(Read(0x106, 4));
  EXPECT_FALSE(Write(0xfe, 4));
  EXPECT_EQ(first.size, 0);
  EXPECT_EQ(second.size, 0);
}

TEST_F(BusTest, HasARangeThatEndsWhereAddressesDo) {
  const uint64_t last = std::numeric_limits<uint64_t>::max();
  bus.Attach(last - 3, 4, &first);
  EXPECT_TRUE(Read(last - 3, 4));
  EXPECT_TRUE(Read(last, 1));
  EXPECT_FALSE(Read(last, 2));
}

TEST_F(BusTest, CallsADeviceOfSeveralRangesWithItsOwnOffsets) {
  bus.Attach(0x60, 1, &first);
  bus.Attach(0x64, 1, &first, 4);
  EXPECT_TRUE(Write(0x64, 1));
  EXPECT_EQ(first.at, 4);
  EXPECT_FALSE(Write(0x61, 1));
}

TEST_F(BusTest, GivesNoAddressToTwo) {
  bus.Attach(0x100, 8, &first);
  EXPECT_DEATH(bus.Attach(0x107, 1, &second), "broken invariant");
  EXPECT_DEATH(bus.Attach(0xf8, 9, &second), "broken invariant");
  EXPECT_DEATH(bus.Attach(0x0, 0x1000, &second), "broken invariant");
}

}  // namespace
}  // namespace quire
