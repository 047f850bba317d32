// Linux guests read and write disks, and the host's files say what became of it.

#include <stdint.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"
#include "workloads/content.h"

namespace quire {
namespace {

constexpr size_t kSector = 512;
constexpr size_t kPageBytes = kWordsPerPage * sizeof(uint64_t);

class LinuxDiskTest : public LinuxWorkTest {
 protected:
  Outcome RunWithDisks(const std::string& work, const std::string& disks) {
    return RunToEnd(Unpacked(Words(kSeries, work, /*guests=*/1, {"--memory=512M", "--pool=768M", "--disk=" + disks})),
                    /*guests=*/1, kBootLimit);
  }

  std::string Sha256(const std::string& path) {
    const std::string sum = NewFile("sum");
    EXPECT_EQ(std::system(absl::StrCat("sha256sum '", path, "' >'", sum, "'").c_str()), 0);
    return Contents(sum).substr(0, 64);
  }
};

std::string Numbers(size_t sectors) {
  std::string text;
  for (int i = 0; text.size() < sectors * kSector; ++i) absl::StrAppend(&text, i, "\n");
  return text.substr(0, sectors * kSector);
}

// As `guest_work SEED pages FIRST COUNT` writes it.
std::string Pages(uint64_t seed, uint64_t first, uint64_t count) {
  Content content;
  content.key = seed;
  std::string text;
  for (uint64_t page = first; page < first + count; ++page) {
    alignas(16) uint64_t words[kWordsPerPage];
    GeneratePage(words, content, page, 1);
    text.append(reinterpret_cast<const char*>(words), sizeof words);
  }
  return text;
}

TEST_F(LinuxDiskTest, ReadsADiskAsItIs) {
  const std::string disk = NewFile("disk");
  constexpr size_t kSectors = 4000 + 3;
  WriteFile(disk, Numbers(kSectors));
  const Outcome outcome = RunWithDisks("disk", disk + ",ro");
  ExpectGoodGuests(outcome);
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("vda_sectors"), absl::StrCat(kSectors));
  EXPECT_EQ(said.Get("vda_ro"), "1");
  EXPECT_EQ(said.Get("vda_sha256"), Sha256(disk));
}

// The first disk is for it, the second one not.
TEST_F(LinuxDiskTest, WritesAndDiscardsWhatItMayAndNothingElse) {
  constexpr uint64_t kSeed = 77, kDiskKey = 2;  // DISK_KEY of guest/init
  constexpr uint64_t kPages = 2048;
  const std::string disk = NewFile("disk"), protected_disk = NewFile("protected");
  WriteFile(disk, std::string(kPages * kPageBytes, 'x'));
  const std::string before = Numbers(kPages);
  WriteFile(protected_disk, before);
  const Outcome outcome =
      RunWithDisks(absl::StrCat("diskwrite quire.seed=", kSeed), absl::StrCat(disk, ",", protected_disk, ",ro"));
  ExpectGoodGuests(outcome);
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("vda_write"), "done");
  EXPECT_EQ(said.Get("vdb_write"), "refused");
  EXPECT_EQ(said.Get("vda_sha256"), Sha256(disk)) << "the guest reads something else than there is";

  std::string wanted = Pages(kSeed + kDiskKey, 0, kPages);
  constexpr size_t kQuarter = kPages / 4 * kPageBytes;
  wanted.replace(kQuarter, kQuarter, kQuarter, '\0');
  wanted.replace(3 * kSector, 5 * kSector, Pages(kSeed + kDiskKey, kPages, 1), 0, 5 * kSector);
  const std::string written = Contents(disk);
  ASSERT_EQ(written.size(), wanted.size());
  for (size_t at = 0; at < written.size(); at += kSector) {
    ASSERT_TRUE(written.compare(at, kSector, wanted, at, kSector) == 0) << "in sector " << at / kSector;
  }
  EXPECT_TRUE(Contents(protected_disk) == before) << "a read-only disk has been written";
}

}  // namespace
}  // namespace quire
