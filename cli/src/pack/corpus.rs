//! The Parquet file of a corpus: its schema, and row groups that are bounded in bytes and rows, so that memory is bounded
//! by one row group and shards can be cut evenly.

use std::fs::File;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::builder::{Int64Builder, StringBuilder};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// Bytes of content in a row group, unless one file alone has more.
const GROUP_BYTES: usize = 32 << 20;
/// Rows in a row group.
const GROUP_ROWS: usize = 32_768;

/// One file.
pub(super) struct Row<'a> {
    pub(super) repository: &'a str,
    pub(super) path: &'a str,
    pub(super) language: Option<&'a str>,
    pub(super) content: &'a str,
}

/// How much was written.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) rows: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
    pub(super) row_groups: usize,
}

/// A corpus that is being written.
pub(super) struct Corpus<'a> {
    writer: ArrowWriter<&'a File>,
    group: Group,
    totals: Totals,
}

impl<'a> Corpus<'a> {
    pub(super) fn new(file: &'a File) -> Result<Self, ParquetError> {
        let writer = ArrowWriter::try_new(file, schema(), Some(properties()))?;
        Ok(Corpus { writer, group: Group::default(), totals: Totals::default() })
    }

    /// Adds a row. Rows stand in the file in the order in which they are added.
    pub(super) fn add(&mut self, row: &Row<'_>) -> Result<(), ParquetError> {
        let full = self.group.rows == GROUP_ROWS || self.group.bytes + row.content.len() > GROUP_BYTES;
        if full && self.group.rows > 0 {
            self.write_group()?;
        }
        self.group.add(row);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Totals, ParquetError> {
        if self.group.rows > 0 {
            self.write_group()?;
        }
        self.totals.row_groups = self.writer.close()?.num_row_groups();
        Ok(self.totals)
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::take(&mut self.group);
        self.totals.rows += group.rows as u64;
        self.totals.bytes += group.bytes as u64;
        self.writer.write(&group.finish()?)?;
        self.writer.flush()
    }
}

/// The rows of one row group.
#[derive(Default)]
struct Group {
    rows: usize,
    bytes: usize,
    repository: StringBuilder,
    path: StringBuilder,
    language: StringBuilder,
    size: Int64Builder,
    hash: StringBuilder,
    content: StringBuilder,
}

impl Group {
    fn add(&mut self, row: &Row<'_>) {
        self.rows += 1;
        self.bytes += row.content.len();
        self.repository.append_value(row.repository);
        self.path.append_value(row.path);
        self.language.append_option(row.language);
        self.size.append_value(row.content.len() as i64);
        self.hash.append_value(blake3::hash(row.content.as_bytes()).to_hex());
        self.content.append_value(row.content);
    }

    fn finish(mut self) -> Result<RecordBatch, ParquetError> {
        let batch = RecordBatch::try_new(
            schema(),
            vec![
                Arc::new(self.repository.finish()),
                Arc::new(self.path.finish()),
                Arc::new(self.language.finish()),
                Arc::new(self.size.finish()),
                Arc::new(self.hash.finish()),
                Arc::new(self.content.finish()),
            ],
        )?;
        Ok(batch)
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("repository", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, true),
        Field::new("size", DataType::Int64, false),
        Field::new("hash", DataType::Utf8, false),
        Field::new("content", DataType::Utf8, false),
    ]))
}

/// Dictionaries only where values repeat, and no smallest and largest content, which serve nobody.
fn properties() -> WriterProperties {
    let content = ColumnPath::from("content");
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(ColumnPath::from("repository"), true)
        .set_column_dictionary_enabled(ColumnPath::from("language"), true)
        .set_column_statistics_enabled(content, EnabledStatistics::None)
        .build()
}
