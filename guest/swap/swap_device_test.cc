// Swap on a block device: a loop device, which takes root.
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/file_store.h"

namespace quire {
namespace {

constexpr ByteCount kDeviceSize = ByteCount::MiB(4);

class SwapDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = absl::StrCat(::testing::TempDir(), "/device-XXXXXX");
    disk_.reset(mkostemp(name.data(), O_CLOEXEC));
    ASSERT_TRUE(disk_.valid());
    unlink(name.c_str());
    ASSERT_EQ(ftruncate(disk_.get(), static_cast<off_t>(kDeviceSize.in_bytes())), 0);
    // Somebody else may be quicker to take the device that was free.
    for (int tries = 0; tries < 20 && !attached_; ++tries) attached_ = Attach();
    if (!attached_) GTEST_SKIP() << "no loop device is to be had: " << std::strerror(errno);
  }

  bool Attach() {
    const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const int number = control.valid() ? ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (number < 0) return false;
    path_ = absl::StrCat("/dev/loop", number);
    device_.reset(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config = {};
    config.fd = static_cast<__u32>(disk_.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;  // detached when it is closed
    return device_.valid() && ioctl(device_.get(), LOOP_CONFIGURE, &config) == 0;
  }
  void Put(absl::string_view text) {
    ASSERT_EQ(pwrite(device_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  absl::StatusOr<std::unique_ptr<FileStore>> Open(ByteCount size = {}) {
    return FileStore::Open({.path = path_, .size = size});
  }

  UniqueFd disk_;
  UniqueFd device_;
  std::string path_;
  bool attached_ = false;
};

TEST_F(SwapDeviceTest, ADeviceThatWasNotGivenToItIsNotTouched) {
  Put("somebody's");
  const absl::Status status = Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat("echo 'quire swap 1' | dd of=", path_))) << status;
  char text[10] = {};
  ASSERT_EQ(pread(device_.get(), text, sizeof text, 0), 10);
  EXPECT_EQ(absl::string_view(text, 10), "somebody's");
}

TEST_F(SwapDeviceTest, ADeviceKeepsWhatIsWritten) {
  Put("quire swap 1\n");
  const absl::StatusOr<std::unique_ptr<FileStore>> store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->size() + ByteCount::Bytes(kPageSize), kDeviceSize);
  EXPECT_EQ((*store)->description(), absl::StrCat("the swap device ", path_));
  const Mapping memory =
      Mapping::Map(ByteCount::Bytes(kPageSize), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value();
  const BackingStore::Transfer last = {.offset = (*store)->size() - ByteCount::Bytes(kPageSize),
                                       .bytes = {memory.data(), kPageSize}};
  std::memset(memory.data(), 0x5a, kPageSize);
  ASSERT_TRUE((*store)->Write({&last, 1}).ok());
  std::memset(memory.data(), 0, kPageSize);
  ASSERT_TRUE((*store)->Read({&last, 1}, BackingStore::IfAway::kWait).ok());
  EXPECT_EQ(memory.data()[kPageSize - 1], std::byte{0x5a});
  (*store)->Discard(ByteCount(), (*store)->size());
  const FileStore::Statistics statistics = (*store)->statistics();
  EXPECT_TRUE(statistics.discarded == (*store)->size() || statistics.discards_refused == 1);
}

TEST_F(SwapDeviceTest, TwoRunsDoNotShareADevice) {
  Put("quire swap 1\n");
  const absl::StatusOr<std::unique_ptr<FileStore>> first = Open();
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status status = Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(status.message(), "in use")) << status;
}

TEST_F(SwapDeviceTest, ADeviceHasNoMoreRoomThanItHas) {
  Put("quire swap 1\n");
  EXPECT_EQ(Open(kDeviceSize).status().code(), absl::StatusCode::kInvalidArgument);
  const absl::StatusOr<std::unique_ptr<FileStore>> store = Open(ByteCount::MiB(1));
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->size(), ByteCount::MiB(1));
}

}  // namespace
}  // namespace quire
