#include "vmm/devices/power.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/devices/bus.h"

namespace quire {
namespace {

constexpr uint64_t kStatus = 0, kEnable = 2, kControl = 4;
constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kSleepEnable = 1 << 13;

uint16_t Read16(BusDevice& device, uint64_t offset) {
  uint16_t value;
  device.Read(offset, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof value));
  return value;
}
void Write16(BusDevice& device, uint64_t offset, uint16_t value) {
  device.Write(offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
}
void Write8(BusDevice& device, uint64_t offset, uint8_t value) {
  const std::byte byte{value};
  device.Write(offset, absl::MakeConstSpan(&byte, 1));
}

struct PowerTest : testing::Test {
  bool sci = false;
  std::vector<PowerEvent> events;
  PowerSwitch power{[this](PowerEvent event) { events.push_back(event); }};
  AcpiPm pm{[this](bool up) { sci = up; }, power};
};

TEST_F(PowerTest, IsInAcpiModeFromTheStart) {
  EXPECT_EQ(Read16(pm, kControl), 1);
  Write16(pm, kControl, 0);
  EXPECT_EQ(Read16(pm, kControl), 1);
}

TEST_F(PowerTest, TurnsOffOnce) {
  Write16(pm, kControl, kSleepTypeOff << 10);
  EXPECT_TRUE(events.empty()) << "not before it is enabled";
  EXPECT_EQ(Read16(pm, kControl), kSleepTypeOff << 10 | 1);
  Write16(pm, kControl, kSleepTypeOff << 10 | kSleepEnable);
  Write16(pm, kControl, kSleepTypeOff << 10 | kSleepEnable);
  EXPECT_EQ(events, std::vector<PowerEvent>{PowerEvent::kPowerOff});
  EXPECT_EQ(Read16(pm, kControl) & kSleepEnable, 0);
}

TEST_F(PowerTest, KnowsNoOtherSleep) {
  for (uint16_t type = 0; type < 8; ++type) {
    if (type != kSleepTypeOff) Write16(pm, kControl, static_cast<uint16_t>(type << 10 | kSleepEnable));
  }
  EXPECT_TRUE(events.empty());
}

TEST_F(PowerTest, ReportsTheButtonUntilTheGuestClearsIt) {
  Write16(pm, kEnable, kPowerButton);
  EXPECT_FALSE(sci);
  pm.PressPowerButton();
  EXPECT_TRUE(sci);
  EXPECT_EQ(Read16(pm, kStatus), kPowerButton);
  Write16(pm, kStatus, 1);
  EXPECT_TRUE(sci) << "another event was cleared";
  Write16(pm, kStatus, kPowerButton);
  EXPECT_FALSE(sci);
  EXPECT_EQ(Read16(pm, kStatus), 0);
}

TEST_F(PowerTest, ReportsAnEarlyPressWhenTheGuestEnablesTheEvent) {
  pm.PressPowerButton();
  EXPECT_FALSE(sci);
  Write16(pm, kEnable, kPowerButton);
  EXPECT_TRUE(sci);
}

TEST_F(PowerTest, ResetsByTheResetRegister) {
  ResetPort port(power);
  Write8(port, 0, 2);
  EXPECT_TRUE(events.empty()) << "that only says which kind";
  Write8(port, 0, kResetValue);
  Write8(port, 0, kResetValue);
  EXPECT_EQ(events, std::vector<PowerEvent>{PowerEvent::kReset});
}

TEST_F(PowerTest, ResetsByTheKeyboardController) {
  I8042 controller(power);
  Write8(controller, I8042::kData, 0xfe);
  Write8(controller, I8042::kCommand, 0xaa);
  EXPECT_TRUE(events.empty());
  std::byte status{0xff};
  controller.Read(I8042::kCommand, absl::MakeSpan(&status, 1));
  EXPECT_EQ(status, std::byte{0});
  Write8(controller, I8042::kCommand, 0xfe);
  EXPECT_EQ(events, std::vector<PowerEvent>{PowerEvent::kReset});
}

TEST_F(PowerTest, OfEventsThatContradictEachOtherTheFirstCounts) {
  ResetPort port(power);
  I8042 controller(power);
  Write16(pm, kControl, kSleepTypeOff << 10 | kSleepEnable);
  Write8(port, 0, kResetValue);
  Write8(controller, I8042::kCommand, 0xfe);
  EXPECT_EQ(events, std::vector<PowerEvent>{PowerEvent::kPowerOff});
}

}  // namespace
}  // namespace quire
