// What the compressed store holds for each page against Linux's zsmalloc, in which zram keeps the same pages. Takes
// root.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/frames/pool.h"
#include "guest/swap/fetched_pages.h"
#include "guest/swap/swap_slot.h"
#include "guest/swap/swap_space.h"
#include "guest/swap/testing/real_pages.h"

namespace quire {
namespace {

absl::Status Put(const std::string& path, absl::string_view value) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.valid() && write(file.get(), value.data(), value.size()) >= 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("writing '", value, "' to ", path));
}

// A new zram device with lz4, which is removed again when this goes. Other devices are not touched.
class Zram {
 public:
  static absl::StatusOr<std::unique_ptr<Zram>> Create(ByteCount size) {
    int number = -1;
    if (!(std::ifstream("/sys/class/zram-control/hot_add") >> number)) {
      return absl::UnavailableError(
          "no zram device to be had from /sys/class/zram-control/hot_add: it takes root, and zram");
    }
    auto zram = std::unique_ptr<Zram>(new Zram(number));
    const absl::Status status = zram->SetUp(size);
    if (!status.ok()) return status;
    return zram;
  }
  ~Zram() {
    device_.reset();
    EXPECT_EQ(Put(sys_ + "/reset", "1"), absl::OkStatus());
    EXPECT_EQ(Put("/sys/class/zram-control/hot_remove", absl::StrCat(number_)), absl::OkStatus());
    if (own_node_) unlink(node_.c_str());
  }

  absl::Status Write(uint64_t page, const std::byte* bytes) {
    std::memcpy(buffer_.get(), bytes, kPageSize);
    if (pwrite(device_.get(), buffer_.get(), kPageSize, static_cast<off_t>(page * kPageSize)) == ssize_t{kPageSize}) {
      return absl::OkStatus();
    }
    return absl::ErrnoToStatus(errno, absl::StrCat("writing to ", node_));
  }
  absl::Status Discard(uint64_t page) {
    uint64_t range[2] = {page * kPageSize, kPageSize};
    if (ioctl(device_.get(), BLKDISCARD, range) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("BLKDISCARD on ", node_));
  }
  absl::Status Compact() { return Put(sys_ + "/compact", "1"); }
  // orig_data_size, compr_data_size, mem_used_total, ...: Documentation/admin-guide/blockdev/zram.rst
  uint64_t Held() const {
    uint64_t original = 0, compressed = 0, used = 0;
    std::ifstream(sys_ + "/mm_stat") >> original >> compressed >> used;
    return used;
  }

 private:
  explicit Zram(int number)
      : number_(number), sys_(absl::StrCat("/sys/block/zram", number)), node_(absl::StrCat("/dev/zram", number)) {}

  absl::Status SetUp(ByteCount size) {
    if (absl::Status status = Put(sys_ + "/comp_algorithm", "lz4"); !status.ok()) return status;
    if (absl::Status status = Put(sys_ + "/disksize", absl::StrCat(size.in_bytes())); !status.ok()) return status;
    device_.reset(open(node_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    if (!device_.valid() && errno == ENOENT) {  // no devtmpfs here
      unsigned major = 0, minor = 0;
      char colon = 0;
      std::ifstream(sys_ + "/dev") >> major >> colon >> minor;
      own_node_ = mknod(node_.c_str(), S_IFBLK | 0600, makedev(major, minor)) == 0;
      device_.reset(open(node_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    }
    return device_.valid() ? absl::OkStatus() : absl::ErrnoToStatus(errno, absl::StrCat("opening ", node_));
  }

  const int number_;
  const std::string sys_;
  const std::string node_;
  bool own_node_ = false;
  UniqueFd device_;
  const AlignedBytes buffer_ = AllocateAligned(kPageSize);
};

class ZsmallocTest : public ::testing::Test {
 protected:
  static constexpr size_t kPages = 16'000;

  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Zram>> zram = Zram::Create(PageCount(kPages).bytes());
    if (!zram.ok()) {
      std::cout << "SKIPPED, nothing was compared: " << zram.status().message() << std::endl;
      GTEST_SKIP() << zram.status();
    }
    zram_ = *std::move(zram);
    Fill();
  }
  void TearDown() override {
    for (const SwapSlot slot : slots_) space_.Free(slot);
  }
  // Both get the same pages, those that do not compress included.
  void Fill() {
    const std::vector<RealPage> pages = RealPages();
    for (uint64_t i = 0; i < kPages; ++i) {
      const RealPage page = Variant(pages[i % pages.size()], i);
      ASSERT_EQ(zram_->Write(i, page.data()), absl::OkStatus());
      slots_.push_back(space_.Store(page.data(), scratch_, Incompressible::kStoreAsIs).slot);
    }
  }
  // Frees three in four, in no order.
  void FreeMost() {
    std::vector<SwapSlot> kept;
    for (uint64_t i = 0; i < kPages; ++i) {
      if (random_() % 4 == 0) {
        kept.push_back(slots_[i]);
      } else {
        ASSERT_EQ(zram_->Discard(i), absl::OkStatus());
        space_.Free(slots_[i]);
      }
    }
    slots_ = kept;
  }
  void Compare(absl::string_view when) {
    const double pages = static_cast<double>(slots_.size());
    const double ours = static_cast<double>(space_.statistics().held.bytes().in_bytes()) / pages;
    const double zsmallocs = static_cast<double>(zram_->Held()) / pages;
    const std::string what =
        absl::StrFormat("%s: %.0f bytes a page, zsmalloc %.0f: %.3f of it", when, ours, zsmallocs, ours / zsmallocs);
    std::cout << what << std::endl;
    EXPECT_LE(ours, 1.03 * zsmallocs) << what;
  }

  std::unique_ptr<Pool> pool_ =
      Pool::Create({.limit = PageCount::OfBlocks(48), .reservations = {}, .use_memfd = true}).value();
  SwapSpace space_{*pool_};
  CompressionScratch scratch_;
  std::mt19937 random_{1};
  std::unique_ptr<Zram> zram_;
  std::vector<SwapSlot> slots_;
};

TEST_F(ZsmallocTest, TheStoreHoldsNoMoreForAPageThanZsmallocDoes) {
  Compare("stored");
  FreeMost();
  Compare("three in four freed");
  space_.CompactZone(space_.statistics().held);
  ASSERT_EQ(zram_->Compact(), absl::OkStatus());
  Compare("both compacted");
}

}  // namespace
}  // namespace quire
