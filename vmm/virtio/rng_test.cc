#include "vmm/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include <memory>
#include <optional>
#include <string>

#include "base/units.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/test_driver.h"

namespace quire {
namespace {

constexpr Gpa kBuffer(0x10000);

struct RngTest : testing::Test {
  // What the driver gets for a request of `size` bytes; memory holds zeros before.
  uint32_t Ask(uint32_t size) {
    driver.queue(0).Add({{.address = kBuffer, .size = size, .writable = true}});
    driver.Notify(0);
    driver.Settle();
    const std::optional<TestQueue::Used> used = driver.queue(0).TakeUsed();
    return used.has_value() ? used->length : ~0u;
  }
  FakeDeviceMemory memory{ByteCount::MiB(1)};
  TestDriver driver{std::make_unique<VirtioRng>(), memory, Gpa(0)};
};

TEST_F(RngTest, GivesRandomBytes) {
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
  ASSERT_TRUE(driver.Start());
  EXPECT_EQ(Ask(64), 64);
  // Equal by chance once in 2^512.
  const std::string once = LoadString(memory, kBuffer, 64);
  EXPECT_NE(once, std::string(64, 0));
  EXPECT_EQ(LoadString(memory, kBuffer + ByteCount::Bytes(64), 64), std::string(64, 0));
  EXPECT_EQ(Ask(64), 64);
  EXPECT_NE(LoadString(memory, kBuffer, 64), once);
}

TEST_F(RngTest, GivesSomeOfWhatIsMuch) {
  ASSERT_TRUE(driver.Start());
  const uint32_t given = Ask(0xffffffff);
  EXPECT_GT(given, 0);
  EXPECT_LE(given, 4096);
}

TEST_F(RngTest, GivesNothingWhereThereIsNoRoom) {
  ASSERT_TRUE(driver.Start());
  EXPECT_EQ(Ask(0), 0);
}

TEST_F(RngTest, StopsForABufferThatIsNotMemory) {
  ASSERT_TRUE(driver.Start());
  driver.queue(0).Add({{.address = Gpa(uint64_t{1} << 40), .size = 8, .writable = true}});
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(driver.transport().reason(), "that is not memory of the guest");
}

}  // namespace
}  // namespace quire
