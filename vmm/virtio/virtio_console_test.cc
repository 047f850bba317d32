#include "vmm/virtio/virtio_console.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/test_driver.h"

namespace quire {
namespace {

constexpr Gpa kBuffer(0x10000);
constexpr int kReceive = VirtioConsole::kReceiveQueue;
constexpr int kTransmit = VirtioConsole::kTransmitQueue;

struct VirtioConsoleTest : testing::Test {
  std::unique_ptr<VirtioConsole> Make() {
    auto made = std::make_unique<VirtioConsole>(
        [this](absl::string_view written) { output.append(written.data(), written.size()); });
    console = made.get();
    return made;
  }
  void GiveRoom(uint32_t size) {
    driver.queue(kReceive).Add({{.address = kBuffer, .size = size, .writable = true}});
    driver.Notify(kReceive);
    driver.Settle();
  }
  // What the guest finds in the next buffer that it has got back; "nothing" if there is none.
  std::string Received() {
    const std::optional<TestQueue::Used> used = driver.queue(kReceive).TakeUsed();
    return used.has_value() ? LoadString(memory, kBuffer, used->length) : "nothing";
  }

  std::string output;
  VirtioConsole* console = nullptr;
  FakeDeviceMemory memory{ByteCount::MiB(4)};
  TestDriver driver{Make(), memory, Gpa(0)};
};

TEST_F(VirtioConsoleTest, WritesOutWhatTheGuestSends) {
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_CONSOLE);
  ASSERT_TRUE(driver.Start());
  const std::string text(10000, 't');
  StoreString(memory, kBuffer, text + "end");
  driver.queue(kTransmit).Add(
      {{.address = kBuffer, .size = 10000}, {.address = kBuffer + ByteCount::Bytes(10000), .size = 3}});
  driver.Notify(kTransmit);
  driver.Settle();
  EXPECT_EQ(output, text + "end");
  EXPECT_TRUE(driver.queue(kTransmit).TakeUsed().has_value());
}

TEST_F(VirtioConsoleTest, WritesOutOnlySoMuchOfOneBuffer) {
  ASSERT_TRUE(driver.Start());
  driver.queue(kTransmit).Add({{.address = kBuffer, .size = 3 << 20}});
  driver.Notify(kTransmit);
  driver.Settle();
  EXPECT_EQ(output.size(), VirtioConsole::kMostOutput.in_bytes());
  EXPECT_TRUE(driver.queue(kTransmit).TakeUsed().has_value());
}

TEST_F(VirtioConsoleTest, SendsWhatIsReceived) {
  ASSERT_TRUE(driver.Start());
  GiveRoom(100);
  EXPECT_EQ(Received(), "nothing");
  console->Receive("typed\n");
  driver.Settle();
  EXPECT_EQ(Received(), "typed\n");
  EXPECT_EQ(console->waiting(), 0);
}

TEST_F(VirtioConsoleTest, LetsBytesWaitUntilTheGuestHasRoom) {
  console->Receive("before the driver");
  ASSERT_TRUE(driver.Start());
  driver.Settle();
  EXPECT_EQ(console->waiting(), 17);
  GiveRoom(6);
  EXPECT_EQ(Received(), "before");
  GiveRoom(0);
  EXPECT_EQ(Received(), "");
  GiveRoom(100);
  EXPECT_EQ(Received(), " the driver");
  EXPECT_EQ(console->waiting(), 0);
}

TEST_F(VirtioConsoleTest, KeepsBytesThroughAReset) {
  ASSERT_TRUE(driver.Start());
  console->Receive("kept");
  driver.Settle();
  ASSERT_TRUE(driver.Start());
  GiveRoom(100);
  EXPECT_EQ(Received(), "kept");
}

}  // namespace
}  // namespace quire
