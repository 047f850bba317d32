#include "vmm/devices/debug_exit.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

struct DebugExitTest : testing::Test {
  template <class Value>
  void Write(Value value, uint64_t offset = 0) {
    port.Write(offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
  }
  std::vector<uint32_t> values;
  DebugExit port{[this](uint32_t value) { values.push_back(value); }};
};

TEST_F(DebugExitTest, ReportsTheFirstValueAlone) {
  Write<uint32_t>(0);
  Write<uint32_t>(3);
  EXPECT_THAT(values, ElementsAre(0u));
}

TEST_F(DebugExitTest, TakesAllOfALongValue) {
  Write<uint32_t>(0x80000001);
  EXPECT_THAT(values, ElementsAre(0x80000001u));
}

TEST_F(DebugExitTest, TakesAByteForWhatItIs) {
  Write<uint8_t>(0xff);
  EXPECT_THAT(values, ElementsAre(0xffu));
}

TEST_F(DebugExitTest, TakesTwoBytesAtAnyOfItsPorts) {
  Write<uint16_t>(0x1234, 2);
  EXPECT_THAT(values, ElementsAre(0x1234u));
}

TEST_F(DebugExitTest, IsLookedAtToNoEffect) {
  uint32_t value = 7;
  port.Read(0, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
  EXPECT_EQ(value, 0u);
  EXPECT_THAT(values, ElementsAre());
}

}  // namespace
}  // namespace quire
