#include "workloads/content_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string TestPath(const std::string& name) { return absl::StrCat(testing::TempDir(), "/", name); }

// A file whose words hold the number of the page they are in, and `extra` bytes more.
std::string WriteNumberedPages(const std::string& name, uint64_t pages, size_t extra) {
  std::ofstream file(TestPath(name), std::ios::binary);
  for (uint64_t page = 0; page < pages; ++page) {
    const std::vector<uint64_t> words(kPageSize / sizeof(uint64_t), page);
    file.write(reinterpret_cast<const char*>(words.data()), kPageSize);
  }
  file << std::string(extra, 'x');
  return TestPath(name);
}

uint64_t FirstWord(const ContentFile& file, uint64_t page) { return file.words()[page * kPageSize / 8]; }
uint64_t LastWord(const ContentFile& file, uint64_t page) { return file.words()[(page + 1) * kPageSize / 8 - 1]; }

std::string ErrorOf(const std::string& path) {
  const absl::StatusOr<ContentFile> file = ContentFile::Load(path);
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(file.status().message());
}

TEST(ContentFile, HoldsTheWholePagesOfASmallFile) {
  const absl::StatusOr<ContentFile> file = ContentFile::Load(WriteNumberedPages("small", 5, 100));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->size(), PageCount(5));
  EXPECT_EQ(file->address().value() % kPageSize, 0u);
  for (uint64_t page = 0; page < 5; ++page) {
    EXPECT_EQ(FirstWord(*file, page), page);
    EXPECT_EQ(LastWord(*file, page), page);
  }
}

TEST(ContentFile, TakesEvenlySpacedPagesOfALargeFile) {
  const uint64_t pages = ContentFile::kMost.in_pages() * 3 / 2;
  const absl::StatusOr<ContentFile> file = ContentFile::Load(WriteNumberedPages("large", pages, 0));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->size(), ContentFile::kMost);
  for (uint64_t page = 0; page < file->size().in_pages(); ++page) ASSERT_EQ(FirstWord(*file, page), page * 3 / 2);
}

TEST(ContentFile, MovesItsPages) {
  absl::StatusOr<ContentFile> file = ContentFile::Load(WriteNumberedPages("moved", 2, 0));
  ASSERT_TRUE(file.ok());
  const uint64_t* words = file->words();
  const ContentFile moved = *std::move(file);
  EXPECT_EQ(moved.words(), words);
  EXPECT_EQ(FirstWord(moved, 1), 1u);
}

TEST(ContentFile, RefusesWhatIsNoUsableFile) {
  EXPECT_THAT(ErrorOf(TestPath("none")),
              AllOf(HasSubstr("/none"), HasSubstr("No such file"), HasSubstr("give a readable regular file")));
  EXPECT_THAT(ErrorOf(testing::TempDir()), HasSubstr("not a regular file"));
  EXPECT_THAT(ErrorOf(WriteNumberedPages("short", 0, 4095)), HasSubstr("only 4095 bytes"));
  EXPECT_THAT(ErrorOf("/dev/zero"), HasSubstr("not a regular file"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("No such file"));
  const std::string fifo = TestPath("fifo");
  unlink(fifo.c_str());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(ErrorOf(fifo), HasSubstr("not a regular file"));
}

TEST(ContentFile, SaysWhenAFileMayNotBeRead) {
  const std::string path = WriteNumberedPages("unreadable", 1, 0);
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  if (access(path.c_str(), R_OK) == 0) GTEST_SKIP() << "root may read everything";
  EXPECT_THAT(ErrorOf(path), HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace quire
