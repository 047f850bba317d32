#include "vmm/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  FilesTest() { fs::create_directories(directory_); }
  ~FilesTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  static void Put(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string Get(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  size_t Entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(directory_), {})); }

  const std::string directory_ = absl::StrCat(testing::TempDir(), "/files_test_", getpid());
};

TEST_F(FilesTest, ReadableIsARegularFileThatHoldsSomething) {
  Put(Path("full"), "x");
  Put(Path("empty"), "");
  EXPECT_TRUE(CheckReadable("content", Path("full")).ok());
  EXPECT_EQ(CheckReadable("content", Path("empty")).message(),
            absl::StrCat("--content=", Path("empty"), " is empty: name a file that holds something"));
  EXPECT_EQ(CheckReadable("content", directory_).message(),
            absl::StrCat("--content=", directory_, " is not a regular file: name a file that can be read"));
  EXPECT_EQ(CheckReadable("content", Path("none")).message(),
            absl::StrCat("--content=", Path("none"),
                         " cannot be read (no such file or directory): name a file that can be read"));
}

TEST_F(FilesTest, AnUnreadableFileIsRefused) {
  Put(Path("secret"), "x");
  fs::permissions(Path("secret"), fs::perms::none);
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  EXPECT_FALSE(CheckReadable("content", Path("secret")).ok());
}

TEST_F(FilesTest, CheckingForWritingLeavesNoTrace) {
  EXPECT_TRUE(CheckWritable("json", Path("new.json")).ok());
  EXPECT_EQ(Entries(), 0u);
  Put(Path("old.json"), "old");
  EXPECT_TRUE(CheckWritable("json", Path("old.json")).ok());
  EXPECT_EQ(Get(Path("old.json")), "old");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(FilesTest, UnwritablePathsAreFoundBeforehand) {
  EXPECT_EQ(CheckWritable("json", Path("none/report.json")).message(),
            absl::StrCat("--json=", Path("none/report.json"),
                         " cannot be written (no such file or directory): name a file in a directory that you may "
                         "write to, or - for standard output"));
  EXPECT_EQ(CheckWritable("json", directory_).message(),
            absl::StrCat("--json=", directory_, " is a directory: name a file in it"));
  EXPECT_FALSE(CheckWritable("json", "/proc/report.json").ok());
}

TEST_F(FilesTest, AFileIsReplacedWhole) {
  Put(Path("report.json"), "a longer text that was there before");
  fs::permissions(Path("report.json"), fs::perms::owner_read | fs::perms::owner_write);
  const fs::path link = Path("link.json");
  fs::create_symlink(Path("report.json"), link);
  ASSERT_TRUE(WriteWhole(link, "new").ok());
  EXPECT_EQ(Get(Path("report.json")), "new");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(fs::status(Path("report.json")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(Entries(), 2u);
}

TEST_F(FilesTest, ANewFileHasThePermissionsThatTheUserWants) {
  const mode_t before = umask(027);
  ASSERT_TRUE(WriteWhole(Path("report.json"), "new").ok());
  umask(before);
  EXPECT_EQ(static_cast<int>(fs::status(Path("report.json")).permissions()), 0640);
}

TEST_F(FilesTest, DevicesAreNotReplaced) {
  EXPECT_TRUE(CheckWritable("json", "/dev/null").ok());
  EXPECT_TRUE(WriteWhole("/dev/null", "text").ok());
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(FilesTest, AFullDeviceIsAnError) {
  const absl::Status status = WriteWhole("/dev/full", "text");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(),
            "the report could not be written to /dev/full (no space left on device): make room "
            "there, or name another file");
}

}  // namespace
}  // namespace quire
