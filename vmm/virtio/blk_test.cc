#include "vmm/virtio/blk.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "mmu/fake_device_memory.h"
#include "vmm/virtio/disk_image.h"
#include "vmm/virtio/one_queue_driver.h"
#include "vmm/virtio/test_queue.h"

namespace quire {
namespace {

using Part = OneQueueDriver::Part;

constexpr uint64_t kSectors = 4096;  // 2 MiB
constexpr uint64_t kRings = 0, kHeader = 0x1000, kStatus = 0x1100, kRanges = 0x1200, kData = 0x10000;
constexpr uint64_t kMemory = 4 << 20;
constexpr uint8_t kUntouched = 0xee;

// Memory of which little can be wired at a time, as of a guest at its limit.
class ShortOfWiring : public FakeDeviceMemory {
 public:
  using FakeDeviceMemory::FakeDeviceMemory;
  absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) override {
    if (wired() >= most) return absl::ResourceExhaustedError("no more");
    auto buffer = FakeDeviceMemory::Wire(begin, size);
    if (buffer.ok()) most_at_once = std::max(most_at_once, wired());
    return buffer;
  }
  int most = 1000;
  int most_at_once = 0;
};

class VirtioBlkTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(DiskImage::Mode::kReadWrite); }
  void TearDown() override { EXPECT_EQ(memory_.wired(), 0); }
  void Open(DiskImage::Mode mode) {
    path_ = ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    disk_.reset();
    const UniqueFd fd(open(path_.c_str(), O_CREAT | O_RDWR | O_TRUNC, 0600));
    std::vector<uint8_t> bytes(kSectors * 512);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i / 512 * 7 + i);
    ASSERT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    disk_ = std::make_unique<VirtioBlk>(DiskImage::Open(path_, mode).value(), memory_);
  }
  static uint8_t Initial(uint64_t sector, uint64_t byte) {
    return static_cast<uint8_t>(sector * 7 + sector * 512 + byte);
  }
  uint8_t InFile(uint64_t at) {
    const UniqueFd fd(open(path_.c_str(), O_RDONLY));
    uint8_t byte = 0;
    EXPECT_EQ(pread(fd.get(), &byte, 1, static_cast<off_t>(at)), 1);
    return byte;
  }
  uint8_t InMemory(uint64_t at) { return driver_.Load<uint8_t>(at); }

  // Has a request served whose parts are header, `data`, status; returns the status.
  uint8_t Ask(uint32_t type, uint64_t sector, const std::vector<Part>& data) {
    std::vector<Part> parts = {{kHeader, sizeof(virtio_blk_outhdr), false}};
    parts.insert(parts.end(), data.begin(), data.end());
    parts.push_back({kStatus, 1, true});
    driver_.Store(kHeader, virtio_blk_outhdr{.type = type, .ioprio = 0, .sector = sector});
    return AskChain(parts);
  }
  uint8_t AskChain(const std::vector<Part>& parts) {
    driver_.Store(kStatus, kUntouched);
    const uint16_t head = driver_.Offer(parts);
    EXPECT_EQ(disk_->Process(0, driver_.queue()), absl::OkStatus());
    const std::vector<TestQueue::Used> used = driver_.TakeUsed();
    EXPECT_EQ(used.size(), 1u);
    if (!used.empty()) {
      EXPECT_EQ(used[0].id, head);
    }
    return InMemory(kStatus);
  }
  uint8_t AskRanges(uint32_t type, const std::vector<virtio_blk_discard_write_zeroes>& ranges) {
    for (size_t i = 0; i < ranges.size(); ++i) driver_.Store(kRanges + i * sizeof ranges[0], ranges[i]);
    return Ask(type, 0, {{kRanges, static_cast<uint32_t>(ranges.size() * sizeof ranges[0]), false}});
  }
  virtio_blk_config Config() {
    virtio_blk_config config;
    disk_->ReadConfig(0, absl::MakeSpan(reinterpret_cast<std::byte*>(&config), sizeof config));
    return config;
  }
  bool Offers(int feature) { return (disk_->features() >> feature & 1) != 0; }

  std::string path_;
  ShortOfWiring memory_{ByteCount::Bytes(kMemory)};
  OneQueueDriver driver_{memory_, Gpa(kRings)};
  std::unique_ptr<VirtioBlk> disk_;
};

TEST_F(VirtioBlkTest, ReadsSectorsIntoPartsOfAnySize) {
  ASSERT_EQ(Ask(VIRTIO_BLK_T_IN, 3, {{kData, 100, true}, {kData + 5000, 1436, true}}), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < 1536; ++i) {
    ASSERT_EQ(InMemory(i < 100 ? kData + i : kData + 5000 + i - 100), Initial(3 + i / 512, i % 512)) << i;
  }
  EXPECT_EQ(disk_->counters().bytes_read.value(), 1536u);
}

TEST_F(VirtioBlkTest, WritesSectorsAndNothingElse) {
  for (uint64_t i = 0; i < 1024; ++i) driver_.Store(kData + i, static_cast<uint8_t>(i * 3));
  ASSERT_EQ(Ask(VIRTIO_BLK_T_OUT, 10, {{kData, 700, false}, {kData + 700, 324, false}}), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < 1024; i += 11) ASSERT_EQ(InFile(5120 + i), static_cast<uint8_t>(i * 3)) << i;
  EXPECT_EQ(InFile(5119), Initial(9, 511));
  EXPECT_EQ(InFile(5120 + 1024), Initial(12, 0));
}

TEST_F(VirtioBlkTest, TheHeaderMayBeInTheSamePartAsTheDataAndTheStatusToo) {
  driver_.Store(kHeader, virtio_blk_outhdr{.type = VIRTIO_BLK_T_OUT, .ioprio = 0, .sector = 1});
  for (uint64_t i = 0; i < 512; ++i) driver_.Store(kHeader + 16 + i, static_cast<uint8_t>(i + 1));
  EXPECT_EQ(AskChain({{kHeader, 16 + 512, false}, {kStatus, 1, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(InFile(512 + 100), 101);
  driver_.Store(kHeader, virtio_blk_outhdr{.type = VIRTIO_BLK_T_IN, .ioprio = 0, .sector = 1});
  AskChain({{kHeader, 9, false}, {kHeader + 9, 7, false}, {kData, 513, true}});
  EXPECT_EQ(InMemory(kData + 512), VIRTIO_BLK_S_OK);
  EXPECT_EQ(InMemory(kData + 100), 101);
}

TEST_F(VirtioBlkTest, LargeRequestsAreDoneInPiecesThatAreWiredOneAfterTheOther) {
  const uint32_t size = 1 << 20;
  ASSERT_EQ(Ask(VIRTIO_BLK_T_IN, 8, {{kData, size, true}}), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < size; i += 509) ASSERT_EQ(InMemory(kData + i), Initial(8 + i / 512, i % 512)) << i;
  EXPECT_EQ(memory_.most_at_once, 1) << "the pieces were wired together";
}

TEST_F(VirtioBlkTest, WhatCannotBeWiredIsCopied) {
  memory_.most = 0;
  const uint32_t size = 100 << 10;
  ASSERT_EQ(Ask(VIRTIO_BLK_T_IN, 8, {{kData, size, true}}), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < size; i += 509) ASSERT_EQ(InMemory(kData + i), Initial(8 + i / 512, i % 512)) << i;
  ASSERT_EQ(Ask(VIRTIO_BLK_T_OUT, 1000, {{kData, size, false}}), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < size; i += 5090) ASSERT_EQ(InFile(512'000 + i), Initial(8 + i / 512, i % 512)) << i;
  EXPECT_EQ(disk_->counters().copied.value(), 2u);
}

TEST_F(VirtioBlkTest, WhenOnlySomeCanBeWiredTheOrderStays) {
  memory_.most = 2;
  std::vector<Part> parts;
  for (uint64_t i = 0; i < 8; ++i) parts.push_back({kData + i * 8192, 512, true});
  ASSERT_EQ(Ask(VIRTIO_BLK_T_IN, 20, parts), VIRTIO_BLK_S_OK);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_EQ(InMemory(kData + i * 8192 + 5), Initial(20 + i, 5)) << i;
  EXPECT_GT(disk_->counters().copied.value(), 0u);
}

TEST_F(VirtioBlkTest, RequestsBeyondTheEndAreRefused) {
  for (const uint64_t sector : {kSectors, kSectors - 1, ~uint64_t{0}, uint64_t{1} << 55, ~uint64_t{0} - 1}) {
    EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, sector, {{kData, 1024, true}}), VIRTIO_BLK_S_IOERR) << sector;
    EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, sector, {{kData, 1024, false}}), VIRTIO_BLK_S_IOERR) << sector;
  }
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, kSectors - 2, {{kData, 1024, true}}), VIRTIO_BLK_S_OK);
  struct stat file;
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_size, static_cast<off_t>(kSectors * 512));
  EXPECT_EQ(disk_->counters().refused.value(), 10u);
}

TEST_F(VirtioBlkTest, PartsOfSectorsAreRefused) {
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {{kData, 511, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {{kData, 513, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(InFile(512), Initial(1, 0));
}

TEST_F(VirtioBlkTest, AHeaderThatIsTooShortIsRefused) {
  EXPECT_EQ(AskChain({{kHeader, 15, false}, {kStatus, 1, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskChain({{kStatus, 1, true}}), VIRTIO_BLK_S_IOERR);
}

TEST_F(VirtioBlkTest, ARequestWithoutAStatusStopsTheDevice) {
  driver_.Store(kHeader, virtio_blk_outhdr{.type = VIRTIO_BLK_T_OUT, .ioprio = 0, .sector = 0});
  driver_.Offer({{kHeader, 16, false}, {kData, 512, false}});
  EXPECT_TRUE(absl::IsInvalidArgument(disk_->Process(0, driver_.queue())));
  EXPECT_EQ(InFile(0), Initial(0, 0));
}

TEST_F(VirtioBlkTest, AStatusThatIsNotInMemoryStopsTheDevice) {
  driver_.Store(kHeader, virtio_blk_outhdr{.type = VIRTIO_BLK_T_FLUSH, .ioprio = 0, .sector = 0});
  driver_.Offer({{kHeader, 16, false}, {kMemory, 1, true}});
  EXPECT_TRUE(absl::IsOutOfRange(disk_->Process(0, driver_.queue())));
}

TEST_F(VirtioBlkTest, DataThatIsNotInMemoryIsAnErrorOfTheRequest) {
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {{kMemory - 512, 1024, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {{~uint64_t{0} - 511, 512, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(InFile(0), Initial(0, 0));
}

TEST_F(VirtioBlkTest, UnknownRequestsAreUnsupported) {
  for (const uint32_t type : {2u, 3u, 5u, 16u, uint32_t{VIRTIO_BLK_T_SECURE_ERASE}, ~0u}) {
    EXPECT_EQ(Ask(type, 0, {}), VIRTIO_BLK_S_UNSUPP) << type;
  }
}

TEST_F(VirtioBlkTest, FlushAndIdAreAnswered) {
  EXPECT_EQ(Ask(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(disk_->counters().flushes.value(), 1u);
  for (uint64_t i = 0; i < 30; ++i) driver_.Store(kData + i, kUntouched);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, true}}), VIRTIO_BLK_S_OK);
  const std::string name = path_.substr(path_.rfind('/') + 1) + std::string(20, '\0');
  for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(InMemory(kData + i), static_cast<uint8_t>(name[i])) << i;
  EXPECT_EQ(InMemory(kData + 20), kUntouched);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_GET_ID, 0, {{kData + 5, 3, true}}), VIRTIO_BLK_S_OK);
}

TEST_F(VirtioBlkTest, RangesAreZeroedAndDiscarded) {
  const virtio_blk_discard_write_zeroes two[] = {{.sector = 8, .num_sectors = 2, .flags = 0},
                                                 {.sector = 100, .num_sectors = 16, .flags = 1}};
  ASSERT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {two[0], two[1]}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(InFile(8 * 512 - 1), Initial(7, 511));
  EXPECT_EQ(InFile(8 * 512 + 700), 0);
  EXPECT_EQ(InFile(10 * 512), Initial(10, 0));
  EXPECT_EQ(InFile(110 * 512 + 3), 0);
  ASSERT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{.sector = 2048, .num_sectors = 2048, .flags = 0}}), VIRTIO_BLK_S_OK);
  struct stat file;
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(file.st_size, static_cast<off_t>(kSectors * 512));
}

TEST_F(VirtioBlkTest, OfRangesThatAreNotAllRightNoneIsTouched) {
  const virtio_blk_discard_write_zeroes good = {.sector = 8, .num_sectors = 8, .flags = 0};
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {good, {.sector = kSectors, .num_sectors = 1, .flags = 0}}),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {good, {.sector = ~uint64_t{0}, .num_sectors = 2, .flags = 0}}),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {good, {.sector = 0, .num_sectors = ~0u, .flags = 0}}),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {good, {.sector = 0, .num_sectors = 1, .flags = 2}}),
            VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {good, {.sector = 0, .num_sectors = 1, .flags = 1}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, std::vector<virtio_blk_discard_write_zeroes>(17, good)),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_DISCARD, 0, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_DISCARD, 0, {{kRanges, 15, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(InFile(8 * 512), Initial(8, 0));
}

TEST_F(VirtioBlkTest, AReadOnlyDiskSaysSoAndIsNotChanged) {
  Open(DiskImage::Mode::kReadOnly);
  EXPECT_TRUE(Offers(VIRTIO_BLK_F_RO));
  EXPECT_FALSE(Offers(VIRTIO_BLK_F_DISCARD));
  EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {{kData, 512, false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{.sector = 0, .num_sectors = 8, .flags = 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{.sector = 0, .num_sectors = 8, .flags = 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(InFile(0), Initial(0, 0));
}

TEST_F(VirtioBlkTest, AnErrorOfTheHostIsAnErrorOfTheRequestAndNoMore) {
  ASSERT_EQ(truncate(path_.c_str(), 512), 0);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 100, {{kData, 512, true}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(disk_->counters().host_errors.value(), 1u);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}), VIRTIO_BLK_S_OK);
}

TEST_F(VirtioBlkTest, TheConfigurationSaysHowLargeTheDiskIs) {
  EXPECT_EQ(Config().capacity, kSectors);
  EXPECT_EQ(Config().blk_size, 512u);
  EXPECT_EQ(Config().seg_max, VirtioBlk::kMostSegments);
  EXPECT_EQ(Config().max_discard_seg, VirtioBlk::kMostRanges);
  EXPECT_TRUE(Offers(VIRTIO_BLK_F_FLUSH) && Offers(VIRTIO_BLK_F_WRITE_ZEROES) && !Offers(VIRTIO_BLK_F_RO));
}

}  // namespace
}  // namespace quire
