#include "vmm/virtio/disk_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class DiskImageTest : public ::testing::Test {
 protected:
  std::string PathOf(const std::string& name) {
    return ::testing::TempDir() + "/" + ::testing::UnitTest::GetInstance()->current_test_info()->name() + name;
  }
  std::string Make(uint64_t size, mode_t mode = 0600) {
    const std::string path = PathOf("disk");
    unlink(path.c_str());
    const UniqueFd fd(open(path.c_str(), O_CREAT | O_RDWR | O_EXCL, mode));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
    return path;
  }
  static absl::Status Open(const std::string& path, DiskImage::Mode mode = DiskImage::Mode::kReadWrite) {
    return DiskImage::Open(path, mode).status();
  }
  static uint64_t BlocksOf(const std::string& path) {
    struct stat file;
    EXPECT_EQ(stat(path.c_str(), &file), 0);
    return static_cast<uint64_t>(file.st_blocks);
  }
};

TEST_F(DiskImageTest, WhatIsWrittenInPiecesIsRead) {
  const DiskImage image = DiskImage::Open(Make(1 << 20), DiskImage::Mode::kReadWrite).value();
  EXPECT_EQ(image.sectors(), 2048u);
  std::array<std::byte, 512> first, second, all[2];
  first.fill(std::byte{1});
  second.fill(std::byte{2});
  const absl::Span<std::byte> in[] = {absl::MakeSpan(first), {}, absl::MakeSpan(second)};
  ASSERT_EQ(image.Write(ByteCount::KiB(4), in), absl::OkStatus());
  const absl::Span<std::byte> out[] = {absl::MakeSpan(all[0]), absl::MakeSpan(all[1])};
  ASSERT_EQ(image.Read(ByteCount::KiB(4), out), absl::OkStatus());
  EXPECT_EQ(all[0], first);
  EXPECT_EQ(all[1], second);
  EXPECT_EQ(image.Flush(), absl::OkStatus());
}

TEST_F(DiskImageTest, FilesThatCannotBeDisksAreRefusedWithWhatToDo) {
  const absl::Status missing = Open(PathOf("nowhere"));
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("truncate -s"));
  for (const DiskImage::Mode mode : {DiskImage::Mode::kReadOnly, DiskImage::Mode::kReadWrite}) {
    const absl::Status directory = Open(::testing::TempDir(), mode);
    EXPECT_TRUE(absl::IsInvalidArgument(directory)) << directory;
    EXPECT_THAT(std::string(directory.message()), HasSubstr("is a directory"));
  }
  EXPECT_THAT(std::string(Open(Make(0)).message()), HasSubstr("is empty"));
  for (uint64_t size : {1, 511, 513}) {
    const absl::Status odd = Open(Make(size));
    EXPECT_TRUE(absl::IsInvalidArgument(odd)) << odd;
    EXPECT_THAT(std::string(odd.message()), HasSubstr("not whole sectors"));
  }
  EXPECT_THAT(std::string(Open("/dev/null").message()), HasSubstr("not a regular file"));
}

TEST_F(DiskImageTest, APipeIsRefusedAndNotWaitedFor) {
  const std::string path = PathOf("pipe");
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(Open(path, DiskImage::Mode::kReadOnly)));
}

TEST_F(DiskImageTest, AFileThatMayNotBeWrittenMayBeReadIfThatIsAsked) {
  const std::string path = Make(512, 0400);
  if (access(path.c_str(), W_OK) == 0) GTEST_SKIP() << "this user may write everything";
  EXPECT_TRUE(absl::IsPermissionDenied(Open(path)));
  EXPECT_THAT(std::string(Open(path).message()), HasSubstr("use it read-only"));
  EXPECT_EQ(Open(path, DiskImage::Mode::kReadOnly), absl::OkStatus());
}

TEST_F(DiskImageTest, OneWritesOrSeveralRead) {
  const std::string path = Make(512);
  {
    const auto writer = DiskImage::Open(path, DiskImage::Mode::kReadWrite);
    ASSERT_EQ(writer.status(), absl::OkStatus());
    EXPECT_TRUE(absl::IsUnavailable(Open(path)));
    EXPECT_TRUE(absl::IsUnavailable(Open(path, DiskImage::Mode::kReadOnly)));
  }
  const auto reader = DiskImage::Open(path, DiskImage::Mode::kReadOnly);
  ASSERT_EQ(reader.status(), absl::OkStatus());
  EXPECT_EQ(Open(path, DiskImage::Mode::kReadOnly), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(Open(path)));
}

TEST_F(DiskImageTest, AnImageThatHasBecomeShorterIsAnErrorAndNotAWait) {
  const std::string path = Make(1 << 20);
  const DiskImage image = DiskImage::Open(path, DiskImage::Mode::kReadWrite).value();
  ASSERT_EQ(truncate(path.c_str(), 512), 0);
  std::array<std::byte, 1024> bytes;
  const absl::Span<std::byte> pieces[] = {absl::MakeSpan(bytes)};
  EXPECT_TRUE(absl::IsDataLoss(image.Read(ByteCount(), pieces)));
}

TEST_F(DiskImageTest, RangesThatAreZeroedReadAsZeroAndTheOthersAsBefore) {
  const std::string path = Make(256 << 10);
  const DiskImage image = DiskImage::Open(path, DiskImage::Mode::kReadWrite).value();
  std::vector<std::byte> bytes(256 << 10, std::byte{7});
  const absl::Span<std::byte> pieces[] = {absl::MakeSpan(bytes)};
  for (bool may_unmap : {false, true}) {
    std::fill(bytes.begin(), bytes.end(), std::byte{7});
    ASSERT_EQ(image.Write(ByteCount(), pieces), absl::OkStatus());
    ASSERT_EQ(image.WriteZeroes(ByteCount::Bytes(512), ByteCount::KiB(128), may_unmap), absl::OkStatus());
    ASSERT_EQ(image.Read(ByteCount(), pieces), absl::OkStatus());
    EXPECT_EQ(bytes[511], std::byte{7});
    EXPECT_EQ(bytes[512], std::byte{0});
    EXPECT_EQ(bytes[512 + (128 << 10) - 1], std::byte{0});
    EXPECT_EQ(bytes[512 + (128 << 10)], std::byte{7});
  }
  EXPECT_LT(BlocksOf(path) * 512, bytes.size()) << "a hole has been made";
}

TEST_F(DiskImageTest, WhatIsDiscardedGivesItsRoomBackAndTheSizeStays) {
  const std::string path = Make(1 << 20);
  const DiskImage image = DiskImage::Open(path, DiskImage::Mode::kReadWrite).value();
  std::vector<std::byte> bytes(1 << 20, std::byte{7});
  const absl::Span<std::byte> pieces[] = {absl::MakeSpan(bytes)};
  ASSERT_EQ(image.Write(ByteCount(), pieces), absl::OkStatus());
  const uint64_t before = BlocksOf(path);
  ASSERT_EQ(image.Discard(ByteCount::KiB(512), ByteCount::KiB(512)), absl::OkStatus());
  EXPECT_LE(BlocksOf(path), before / 2);
  EXPECT_EQ(image.Read(ByteCount(), pieces), absl::OkStatus());
}

}  // namespace
}  // namespace quire
