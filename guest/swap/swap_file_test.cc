#include "guest/swap/swap_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

constexpr ByteCount kSize = ByteCount::MiB(1);

// Whether `holds` in a child process, which ends without destroying anything.
bool InChild(const std::function<bool()>& holds) {
  const pid_t child = fork();
  if (child == 0) _exit(holds() ? 0 : 1);
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

class SwapFileTest : public ::testing::Test {
 protected:
  SwapFileTest() {
    std::string name = absl::StrCat(::testing::TempDir(), "/swap-XXXXXX");
    directory_ = mkdtemp(name.data());
    path_ = absl::StrCat(directory_, "/file");
  }
  ~SwapFileTest() override { fs::remove_all(directory_); }

  void Put(absl::string_view text) { std::ofstream(path_) << text; }
  std::string Text() {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // What opening it says; it is closed again.
  static absl::Status Error(const std::string& path, ByteCount size = kSize) {
    return SwapFile::Open(path, size).status();
  }
  static void ExpectError(const absl::Status& status, absl::StatusCode code, absl::string_view text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
  }
  bool Exists() const { return fs::exists(path_); }

  std::string directory_;
  std::string path_;
};

TEST_F(SwapFileTest, WhatIsMadeIsItsOwnersAloneAndRemovedAtTheEnd) {
  {
    const absl::StatusOr<SwapFile> file = SwapFile::Open(path_, kSize);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->size(), kSize);
    EXPECT_FALSE(file->is_device());
    EXPECT_EQ(file->description(), absl::StrCat("the swap file ", path_));
    struct stat st;
    ASSERT_EQ(stat(path_.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600);
    EXPECT_EQ(st.st_size, static_cast<off_t>((SwapFile::kHeader + kSize).in_bytes()));
    EXPECT_LT(st.st_blocks * 512, static_cast<off_t>(kSize.in_bytes()));  // sparse
  }
  EXPECT_FALSE(Exists());
}

TEST_F(SwapFileTest, ADirectoryHoldsAnUnnamedFile) {
  const absl::StatusOr<SwapFile> file = SwapFile::Open(directory_, kSize);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size(), kSize);
  EXPECT_TRUE(fs::is_empty(directory_));
  EXPECT_EQ(lseek(file->fd(), 0, SEEK_END), static_cast<off_t>((SwapFile::kHeader + kSize).in_bytes()));
}

TEST_F(SwapFileTest, WhatAKilledRunLeftIsTakenOverAndRemoved) {
  EXPECT_TRUE(InChild([&] {
    const absl::StatusOr<SwapFile> file = SwapFile::Open(path_, kSize);
    return file.ok() && pwrite(file->fd(), "old", 3, 1 << 19) == 3 && (_exit(0), true);
  }));
  ASSERT_TRUE(Exists());
  {
    const absl::StatusOr<SwapFile> file = SwapFile::Open(path_, ByteCount());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->size(), kSize);
    char old[3] = {1, 1, 1};
    ASSERT_EQ(pread(file->fd(), old, 3, 1 << 19), 3);
    EXPECT_EQ(std::string(old, 3), std::string(3, '\0'));
  }
  EXPECT_FALSE(Exists());
}

TEST_F(SwapFileTest, AnEmptyFileIsUsedAndStays) {
  Put("");
  EXPECT_TRUE(SwapFile::Open(path_, kSize).ok());
  ASSERT_TRUE(Exists());
  // Its own size is known by now.
  const absl::StatusOr<SwapFile> again = SwapFile::Open(path_, ByteCount());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->size(), kSize);
}

TEST_F(SwapFileTest, AFileThatWasGivenToItIsUsedAndStays) {
  Put("quire swap 1\n and what was there before");
  EXPECT_TRUE(SwapFile::Open(path_, kSize).ok());
  EXPECT_TRUE(absl::StartsWith(Text(), "quire swap 1\n"));
}

TEST_F(SwapFileTest, SomebodyElsesFileIsNotTouched) {
  Put("a letter");
  ExpectError(Error(path_), absl::StatusCode::kFailedPrecondition, "truncate -s 0");
  EXPECT_EQ(Text(), "a letter");
}

TEST_F(SwapFileTest, TwoRunsDoNotShareAFile) {
  {
    const absl::StatusOr<SwapFile> first = SwapFile::Open(path_, kSize);
    ASSERT_TRUE(first.ok());
    ExpectError(Error(path_), absl::StatusCode::kFailedPrecondition, "in use by another run");
    EXPECT_TRUE(InChild([&] { return Error(path_).code() == absl::StatusCode::kFailedPrecondition; }));
    EXPECT_TRUE(Exists());
  }
  EXPECT_TRUE(Error(path_).ok());
}

TEST_F(SwapFileTest, WhatIsAtThePathByNowIsNotRemoved) {
  std::optional<absl::StatusOr<SwapFile>> file = SwapFile::Open(path_, kSize);
  ASSERT_TRUE(file->ok());
  fs::remove(path_);
  Put("a letter");
  file.reset();
  EXPECT_EQ(Text(), "a letter");
}

TEST_F(SwapFileTest, ALinkIsFollowedAndStays) {
  const std::string link = path_ + ".link";
  Put("quire swap 1\ntemporary\n");
  fs::create_symlink(path_, link);
  EXPECT_TRUE(Error(link).ok());
  EXPECT_FALSE(Exists());
  EXPECT_TRUE(fs::is_symlink(link));
  ExpectError(Error(link), absl::StatusCode::kInvalidArgument, "leads nowhere");
}

TEST_F(SwapFileTest, OtherKindsAreRefusedByName) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  ExpectError(Error(path_), absl::StatusCode::kInvalidArgument, "a pipe");
  ExpectError(Error("/dev/null"), absl::StatusCode::kInvalidArgument, "a character device");
}

TEST_F(SwapFileTest, WhatCannotBeOpenedIsNamed) {
  ExpectError(Error(directory_ + "/none/file"), absl::StatusCode::kNotFound, "/none/file");
  ExpectError(Error("/proc/swap"), absl::StatusCode::kNotFound, "/proc/swap");
}

TEST_F(SwapFileTest, AFileNeedsASize) {
  ExpectError(Error(path_, ByteCount()), absl::StatusCode::kInvalidArgument, "how large");
  EXPECT_FALSE(Exists());
  ExpectError(Error(directory_, ByteCount()), absl::StatusCode::kInvalidArgument, "how large");
  Put("");
  ExpectError(Error(path_, ByteCount()), absl::StatusCode::kInvalidArgument, "how large");
  ExpectError(Error(path_, ByteCount::Bytes(5000)), absl::StatusCode::kInvalidArgument, "multiple of 4096");
  ExpectError(Error(path_, ByteCount::Bytes(~uint64_t{kPageSize - 1})), absl::StatusCode::kInvalidArgument,
              "ask for less");
}

TEST_F(SwapFileTest, AFileThatMayNotBeWrittenIsRefusedAndRemoved) {
  EXPECT_TRUE(InChild([&] {
    const rlimit limit = {.rlim_cur = kSize.in_bytes(), .rlim_max = kSize.in_bytes()};
    const absl::Status status = setrlimit(RLIMIT_FSIZE, &limit) == 0 ? Error(path_) : absl::OkStatus();
    return absl::StrContains(status.message(), "ulimit -f");
  }));
  EXPECT_FALSE(Exists());
}

}  // namespace
}  // namespace quire
