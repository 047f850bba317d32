#include "vmm/virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/test_driver.h"
#include "vmm/virtio/virtio_device.h"
#include "vmm/virtio/virtqueue.h"

namespace quire {
namespace {

constexpr Gpa kQueues(0);
constexpr Gpa kBuffer(0x20000);
constexpr uint64_t kOwnFeature = uint64_t{1} << 3;

// Gives each chain back with its readable part reversed in its writable part.
class Reverser : public VirtioDevice {
 public:
  struct Log {
    std::atomic<int> processed = 0;
    std::atomic<int> resets = 0;
    std::atomic<bool> at_work = false;
    std::atomic<bool> disturbed = false;  // reset, or told of features, while at work
    std::atomic<uint64_t> features = 0;
    Reverser* device = nullptr;
    std::function<absl::Status(int, Virtqueue&)> instead;  // of Process
  };
  explicit Reverser(Log& log) : log_(log) { log.device = this; }

  uint32_t id() const override { return VIRTIO_ID_NET; }
  uint64_t features() const override { return kOwnFeature; }
  std::vector<uint16_t> queue_sizes() const override { return {32, 8}; }
  void ReadConfig(uint64_t offset, absl::Span<std::byte> data) override {
    CopyConfig(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&config_), sizeof config_), offset, data);
  }
  void WriteConfig(uint64_t offset, absl::Span<const std::byte> data) override {
    if (offset == 0 && data.size() == sizeof config_) std::memcpy(&config_, data.data(), sizeof config_);
  }
  void SetFeatures(uint64_t features) override {
    log_.features = features;
    if (log_.at_work) log_.disturbed = true;
  }
  void Reset() override {
    ++log_.resets;
    if (log_.at_work) log_.disturbed = true;
  }
  absl::Status Process(int queue, Virtqueue& virtqueue) override {
    ++log_.processed;
    log_.at_work = true;
    const absl::Status status = log_.instead ? log_.instead(queue, virtqueue) : ReverseAll(virtqueue);
    log_.at_work = false;
    return status;
  }

  using VirtioDevice::AskToProcess;
  void SetConfig(uint64_t value) {
    ChangeConfig([&] { config_ = value; });
  }

 private:
  static absl::Status ReverseAll(Virtqueue& virtqueue) {
    for (;;) {
      const absl::StatusOr<std::optional<Chain>> chain = virtqueue.Pop();
      if (!chain.ok()) return chain.status();
      if (!chain->has_value()) return absl::OkStatus();
      absl::StatusOr<std::vector<std::byte>> bytes = (*chain)->ReadAll(ByteCount::KiB(4));
      if (!bytes.ok()) return bytes.status();
      std::reverse(bytes->begin(), bytes->end());
      absl::Status status = (*chain)->Write(ByteCount(), *bytes);
      if (status.ok()) status = virtqueue.Push(**chain, ByteCount::Bytes(bytes->size()));
      if (!status.ok()) return status;
    }
  }

  Log& log_;
  uint64_t config_ = 0x1122334455667788;
};

struct MmioTransportTest : testing::Test {
  // Adds a chain that is to turn `text` round.
  void Ask(int queue, const std::string& text) {
    StoreString(memory, kBuffer, text);
    const uint32_t size = static_cast<uint32_t>(text.size());
    driver.queue(queue).Add(
        {{.address = kBuffer, .size = size}, {.address = kBuffer + ByteCount::KiB(4), .size = size, .writable = true}});
  }
  std::string Answer(size_t size) { return LoadString(memory, kBuffer + ByteCount::KiB(4), size); }

  FakeDeviceMemory memory{ByteCount::MiB(1)};
  Reverser::Log log;
  TestDriver driver{std::make_unique<Reverser>(log), memory, kQueues};
};

TEST_F(MmioTransportTest, SaysWhatItIs) {
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_VERSION), 2);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_NET);
  EXPECT_EQ(driver.Offered(), kOwnFeature | kVersion1 | kIndirect | kEventIndex);
  driver.Write(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_NUM_MAX), 8);
  driver.Write(VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

TEST_F(MmioTransportTest, ServesADriver) {
  ASSERT_TRUE(driver.Start());
  EXPECT_EQ(log.features, driver.Offered());
  Ask(0, "queue");
  driver.Notify(0);
  driver.Settle();
  const std::optional<TestQueue::Used> used = driver.queue(0).TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->length, 5);
  EXPECT_EQ(Answer(5), "eueuq");
  EXPECT_EQ(driver.interrupts(), 1);
  EXPECT_EQ(driver.TakeInterruptStatus(), VIRTIO_MMIO_INT_VRING);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

TEST_F(MmioTransportTest, ServesWhatWasThereBeforeTheDriverWasReady) {
  ASSERT_TRUE(driver.Negotiate(kVersion1));
  driver.SetUpQueue(1, 8);
  Ask(1, "early");
  driver.Notify(1);
  driver.Settle();
  EXPECT_EQ(log.processed, 0);
  driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  driver.Settle();
  EXPECT_TRUE(driver.queue(1).TakeUsed().has_value());
}

TEST_F(MmioTransportTest, RefusesFeaturesThatItHasNotOffered) {
  EXPECT_FALSE(driver.Start(kVersion1 | kOwnFeature << 1));
  driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_EQ(driver.Status() & VIRTIO_CONFIG_S_DRIVER_OK, 0);
  EXPECT_EQ(log.features, 0);
}

TEST_F(MmioTransportTest, RefusesADriverOfTheLegacyInterface) { EXPECT_FALSE(driver.Start(kOwnFeature)); }

TEST_F(MmioTransportTest, KeepsFeaturesOnceAgreedTo) {
  ASSERT_TRUE(driver.Negotiate(kVersion1));
  driver.Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  driver.Write(VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_RING_F_INDIRECT_DESC);
  driver.SetUpQueue(0, 8);
  driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  driver.queue(0).AddIndirect(kBuffer, {{.address = kBuffer, .size = 8}});
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(driver.transport().reason(), "an indirect descriptor came, which the driver had not agreed to");
}

TEST_F(MmioTransportTest, StopsAtABadRingUntilItIsReset) {
  ASSERT_TRUE(driver.Start());
  driver.queue(0).Offer(16);
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(driver.transport().reason(), "a chain names descriptor 16 in a table of 16");
  EXPECT_NE(driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
  EXPECT_EQ(driver.TakeInterruptStatus(), VIRTIO_MMIO_INT_CONFIG);
  EXPECT_EQ(driver.interrupts(), 1);
  const int processed = log.processed;
  driver.Notify(0);
  driver.Notify(1);
  driver.Settle();
  EXPECT_EQ(log.processed, processed);

  ASSERT_TRUE(driver.Start());
  EXPECT_EQ(driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
  Ask(0, "again");
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(Answer(5), "niaga");
}

TEST_F(MmioTransportTest, StopsForADriverThatPutsAQueueWhereNoneCanBe) {
  ASSERT_TRUE(driver.Negotiate(kVersion1));
  const auto set_up = [&](uint32_t size, uint32_t descriptors) {
    driver.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.Write(VIRTIO_MMIO_QUEUE_NUM, size);
    driver.Write(VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors);
    driver.Write(VIRTIO_MMIO_QUEUE_READY, 1);
    return driver.Read(VIRTIO_MMIO_QUEUE_READY) != 0;
  };
  EXPECT_FALSE(set_up(8, 8));
  EXPECT_EQ(driver.transport().reason(), "a queue's descriptors cannot be at 0x8");
  EXPECT_NE(driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
  EXPECT_FALSE(set_up(64, 0)) << "more than the device has";
  EXPECT_FALSE(set_up(12, 0)) << "not a power of two";
  EXPECT_FALSE(set_up(0x10008, 0)) << "not 16 bits";
  EXPECT_EQ(driver.interrupts(), 0);
  EXPECT_TRUE(set_up(8, 0));
}

TEST_F(MmioTransportTest, GivesNoQueueBeforeFeaturesAreAgreedTo) {
  driver.Reset();
  driver.SetUpQueue(0, 8);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_READY), 0);
}

TEST_F(MmioTransportTest, KeepsAReadyQueueWhereItIs) {
  ASSERT_TRUE(driver.Start());
  driver.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
  driver.Write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x40000);
  driver.Write(VIRTIO_MMIO_QUEUE_NUM, 2);
  Ask(0, "stays");
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(Answer(5), "syats");
}

TEST_F(MmioTransportTest, IgnoresAccessesThatAreNotOfARegister) {
  std::byte bytes[8];
  std::fill(std::begin(bytes), std::end(bytes), std::byte{1});
  driver.transport().Read(VIRTIO_MMIO_MAGIC_VALUE, absl::MakeSpan(bytes, 2));
  EXPECT_EQ(bytes[0], std::byte{0});
  EXPECT_EQ(bytes[1], std::byte{0});
  driver.transport().Read(VIRTIO_MMIO_MAGIC_VALUE, absl::MakeSpan(bytes, 8));
  EXPECT_EQ(bytes[0], std::byte{0});
  driver.AddStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE);
  const std::byte zeros[8] = {};
  driver.transport().Write(VIRTIO_MMIO_STATUS, absl::MakeSpan(zeros, 1));
  driver.transport().Write(VIRTIO_MMIO_STATUS, absl::MakeSpan(zeros, 8));
  driver.transport().Write(VIRTIO_MMIO_STATUS + 2, absl::MakeSpan(zeros, 4));
  EXPECT_EQ(driver.Status(), VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

TEST_F(MmioTransportTest, IgnoresQueuesThatItHasNot) {
  ASSERT_TRUE(driver.Start());
  driver.Settle();
  const int processed = log.processed;
  for (const uint32_t queue : {2u, 63u, 64u, 0xffffffffu}) {
    driver.Write(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    driver.Write(VIRTIO_MMIO_QUEUE_SEL, queue);
    driver.Write(VIRTIO_MMIO_QUEUE_READY, 1);
    EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_READY), 0);
  }
  driver.Settle();
  EXPECT_EQ(log.processed, processed);
}

TEST_F(MmioTransportTest, PassesTheConfigurationSpaceOn) {
  EXPECT_EQ(driver.ReadConfig<uint16_t>(2), 0x5566);
  EXPECT_EQ(driver.ReadConfig<uint64_t>(4), 0x11223344) << "with nothing after its end";
  EXPECT_EQ(driver.ReadConfig<uint32_t>(0xe00), 0);
  driver.WriteConfig<uint64_t>(0, 42);
  EXPECT_EQ(driver.ReadConfig<uint8_t>(0), 42);
}

TEST_F(MmioTransportTest, TellsOfANewConfiguration) {
  ASSERT_TRUE(driver.Start());
  const uint32_t generation = driver.Read(VIRTIO_MMIO_CONFIG_GENERATION);
  log.device->SetConfig(7);
  EXPECT_NE(driver.Read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_EQ(driver.ReadConfig<uint64_t>(0), 7);
  EXPECT_EQ(driver.interrupts(), 1);
  EXPECT_EQ(driver.TakeInterruptStatus(), VIRTIO_MMIO_INT_CONFIG);
}

TEST_F(MmioTransportTest, TellsADriverThatWasOnItsWayWhenTheConfigurationChanged) {
  ASSERT_TRUE(driver.Negotiate(kVersion1));
  log.device->SetConfig(7);
  EXPECT_EQ(driver.interrupts(), 0);
  driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_EQ(driver.interrupts(), 1);
  EXPECT_EQ(driver.TakeInterruptStatus(), VIRTIO_MMIO_INT_CONFIG);
}

TEST_F(MmioTransportTest, ProcessesAQueueWhenTheDeviceAsks) {
  ASSERT_TRUE(driver.Start());
  driver.Settle();
  Ask(0, "quiet");
  log.device->AskToProcess(0);
  driver.Settle();
  EXPECT_EQ(Answer(5), "teiuq");
}

TEST_F(MmioTransportTest, InterruptsOnlyWhenTheDriverWantsThat) {
  ASSERT_TRUE(driver.Start(kVersion1));
  driver.queue(0).SetAvailableFlags(VRING_AVAIL_F_NO_INTERRUPT);
  Ask(0, "poll");
  driver.Notify(0);
  driver.Settle();
  EXPECT_TRUE(driver.queue(0).TakeUsed().has_value());
  EXPECT_EQ(driver.interrupts(), 0);
}

// A device that is at work with queue 0 until it is let go.
struct BusyTest : MmioTransportTest {
  void SetUp() override {
    log.instead = [this](int queue, Virtqueue& virtqueue) {
      if (queue != 0) return absl::OkStatus();
      at_work.Notify();
      let_go.WaitForNotification();
      closed = !virtqueue.Pop()->has_value();
      return result;
    };
    ASSERT_TRUE(driver.Negotiate(kVersion1));
    driver.SetUpQueue(0, 8);
    driver.queue(0).Add({{.address = kBuffer, .size = 8}});
    driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
    at_work.WaitForNotification();
  }
  void TearDown() override {
    if (!let_go.HasBeenNotified()) let_go.Notify();
    driver.transport().Stop();
  }
  absl::Notification at_work, let_go;
  absl::Status result;
  std::atomic<bool> closed = false;
};

TEST_F(BusyTest, KeepsNoVcpuWaitingForADevice) {
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_READY), 1);
  driver.Notify(0);
  driver.AddStatus(VIRTIO_CONFIG_S_FAILED);
  EXPECT_NE(driver.Status() & VIRTIO_CONFIG_S_FAILED, 0);
}

TEST_F(BusyTest, ResetsWhenTheDeviceHasLeftItsWork) {
  std::thread device([this] { let_go.Notify(); });
  const int resets = log.resets;
  log.device->SetConfig(1);  // that is not taken for the next driver's
  driver.Reset();
  device.join();
  EXPECT_EQ(log.resets, resets + 1);
  EXPECT_FALSE(log.disturbed);
  EXPECT_EQ(driver.Status(), 0);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_QUEUE_READY), 0);
}

// The queue that is taken away looks empty to the device, which thereby comes to an end.
TEST_F(BusyTest, TakesAQueueAwayFromADeviceAtWork) {
  result = absl::InternalError("of no interest any more");
  std::thread driver_thread([this] { driver.Write(VIRTIO_MMIO_QUEUE_READY, 0); });
  while (driver.Read(VIRTIO_MMIO_QUEUE_READY) != 0) std::this_thread::yield();
  let_go.Notify();
  driver_thread.join();
  EXPECT_TRUE(closed);
  driver.Settle();
  EXPECT_EQ(driver.transport().reason(), "");
  EXPECT_EQ(driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

TEST_F(BusyTest, StopsAfterTheWorkInHandWithoutAReason) {
  result = absl::InternalError("the guest's memory has gone");
  std::thread owner([this] { driver.transport().Stop(); });
  driver.Settle();  // has nothing to wait for once the owner is at it
  let_go.Notify();
  owner.join();
  EXPECT_EQ(driver.transport().reason(), "");
  const int processed = log.processed;
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(log.processed, processed);
}

// A device that keeps a chain over the end of its queue, as one that answers later does.
TEST_F(MmioTransportTest, DropsAChainOfAQueueThatHasBeenReplaced) {
  std::optional<Chain> kept;
  log.instead = [&](int, Virtqueue& virtqueue) {
    if (kept.has_value()) return virtqueue.Push(*std::exchange(kept, std::nullopt), ByteCount());
    kept = *virtqueue.Pop();
    return absl::OkStatus();
  };
  ASSERT_TRUE(driver.Negotiate(kVersion1));
  driver.SetUpQueue(0, 8);
  driver.queue(0).Add({{.address = kBuffer, .size = 8}});
  driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  driver.Settle();
  ASSERT_TRUE(kept.has_value());
  driver.Write(VIRTIO_MMIO_QUEUE_READY, 0);
  driver.SetUpQueue(0, 8);
  driver.Notify(0);
  driver.Settle();
  EXPECT_FALSE(kept.has_value());
  EXPECT_EQ(driver.queue(0).UsedIndex(), 0);
}

TEST_F(MmioTransportTest, ServesVcpusThatContradictEachOther) {
  ASSERT_TRUE(driver.Start());
  const auto vcpu = [this](uint32_t seed) {
    for (uint32_t i = 0; i < 300; ++i) {
      const auto write = [this](uint64_t offset, uint32_t value) {
        driver.transport().Write(offset, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
      };
      seed = seed * 1103515245 + 12345;
      switch (seed >> 16 & 7) {
        case 0:
          write(VIRTIO_MMIO_STATUS, 0);
          break;
        case 1:
          write(VIRTIO_MMIO_QUEUE_READY, seed >> 20 & 1);
          break;
        case 2:
          write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
          write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
          write(VIRTIO_MMIO_STATUS, 15);
          break;
        case 3:
          write(VIRTIO_MMIO_QUEUE_NUM, 8);
          break;
        case 4:
          log.device->SetConfig(seed);
          break;
        case 5:
          write(VIRTIO_MMIO_INTERRUPT_ACK, 3);
          break;
        default:
          write(VIRTIO_MMIO_QUEUE_NOTIFY, seed >> 20 & 1);
      }
    }
  };
  std::thread other(vcpu, 1);
  vcpu(2);
  other.join();
  driver.Settle();
  EXPECT_FALSE(log.disturbed);
  // It is as good as new for a driver that means well.
  ASSERT_TRUE(driver.Start());
  Ask(0, "after");
  driver.Notify(0);
  driver.Settle();
  EXPECT_EQ(Answer(5), "retfa");
}

}  // namespace
}  // namespace quire
