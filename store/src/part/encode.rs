//! Encoding a part, row group by row group as vectors arrive, in memory: it is put with one request.

use std::io::Write;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, Int32Array, Int64Array,
    RecordBatch, StringArray,
};
use arrow_schema::{ArrowError, Field, SchemaRef};
use bytes::Bytes;
use gristmill_job::{Compression, Digest, VectorType};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{FOOTER_KEY, Footer};
use crate::schema;

/// Encoded bytes after which a row group is closed.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// A part that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Columns that do not fit the schema.
    #[error("rows do not fit the output's columns: {0}")]
    Columns(#[from] ArrowError),
    /// The Parquet writer refused.
    #[error("the part cannot be encoded: {0}")]
    Parquet(#[from] ParquetError),
    /// The Parquet writer could not write to memory.
    #[error("the part cannot be encoded: {0}")]
    Memory(#[from] std::io::Error),
}

/// Where rows come from and what became of their texts; one entry per row.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// URLs of the objects.
    pub objects: Vec<Arc<str>>,
    /// Their versions.
    pub versions: Vec<Arc<str>>,
    /// Row numbers.
    pub rows: Vec<i64>,
    /// Token ids used.
    pub tokens: Vec<i32>,
    /// Bytes of text not used.
    pub cut_bytes: Vec<i64>,
    /// Digests of the texts.
    pub text_hashes: Vec<[u8; 16]>,
}

impl Provenance {
    /// That of some consecutive rows.
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Self {
        Provenance {
            objects: self.objects[rows.clone()].to_vec(),
            versions: self.versions[rows.clone()].to_vec(),
            rows: self.rows[rows.clone()].to_vec(),
            tokens: self.tokens[rows.clone()].to_vec(),
            cut_bytes: self.cut_bytes[rows.clone()].to_vec(),
            text_hashes: self.text_hashes[rows].to_vec(),
        }
    }

    /// That of the rows for which `keep` says so.
    pub fn filter(self, keep: &[bool]) -> Self {
        fn kept<T>(values: Vec<T>, keep: &[bool]) -> Vec<T> {
            values.into_iter().zip(keep).filter(|(_, keep)| **keep).map(|(value, _)| value).collect()
        }
        Provenance {
            objects: kept(self.objects, keep),
            versions: kept(self.versions, keep),
            rows: kept(self.rows, keep),
            tokens: kept(self.tokens, keep),
            cut_bytes: kept(self.cut_bytes, keep),
            text_hashes: kept(self.text_hashes, keep),
        }
    }
}

/// A part in the making.
pub struct PartEncoder {
    writer: ArrowWriter<Vec<u8>>,
    schema: SchemaRef,
    rows: u64,
}

impl PartEncoder {
    /// An empty part of these columns.
    pub fn new(schema: &SchemaRef, compression: Compression) -> Result<Self, EncodeError> {
        let properties = properties(schema, compression);
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), Some(properties))?;
        Ok(PartEncoder { writer, schema: Arc::clone(schema), rows: 0 })
    }

    /// Appends rows: their carried columns, their vectors (row-major, rows x width) and where they come from.
    pub fn append(
        &mut self,
        carried: &[ArrayRef],
        vectors: Vec<f32>,
        provenance: Provenance,
    ) -> Result<(), EncodeError> {
        let mut columns = carried.to_vec();
        columns.push(self.embedding(vectors)?);
        columns.push(Arc::new(StringArray::from_iter_values(&provenance.objects)));
        columns.push(Arc::new(StringArray::from_iter_values(&provenance.versions)));
        columns.push(Arc::new(Int64Array::from(provenance.rows)));
        columns.push(Arc::new(Int32Array::from(provenance.tokens)));
        columns.push(Arc::new(Int64Array::from(provenance.cut_bytes)));
        columns.push(Arc::new(FixedSizeBinaryArray::try_new(
            16,
            provenance.text_hashes.into_flattened().into(),
            None,
        )?));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.rows += batch.num_rows() as u64;
        self.writer.write(&batch)?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush()?;
        }
        Ok(())
    }

    fn embedding(&self, vectors: Vec<f32>) -> Result<ArrayRef, EncodeError> {
        let field = self.schema.field_with_name(schema::EMBEDDING)?;
        let arrow_schema::DataType::FixedSizeList(component, width) = field.data_type() else {
            return Err(ArrowError::SchemaError(format!("`{}` is {}", field.name(), field.data_type())).into());
        };
        let components: ArrayRef = match vector_type(component) {
            VectorType::F32 => Arc::new(Float32Array::from(vectors)),
            VectorType::F16 => Arc::new(Float16Array::from_iter_values(vectors.into_iter().map(f16::from_f32))),
        };
        Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(component), *width, components, None)?))
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes so far, encoded or about to be.
    pub fn bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    /// Ends the part. `footer`'s `rows` and `body` are filled in here.
    pub fn finish(mut self, mut footer: Footer) -> Result<(Footer, Bytes), EncodeError> {
        self.writer.flush()?;
        self.writer.sync()?;
        footer.rows = self.rows;
        footer.body = Digest::of(self.writer.inner());
        let text = serde_json::to_string(&footer).expect("a footer is plain data");
        self.writer.append_key_value_metadata(KeyValue::new(FOOTER_KEY.to_owned(), text));
        self.writer.finish()?;
        self.writer.inner_mut().flush()?;
        let bytes = std::mem::take(self.writer.inner_mut());
        Ok((footer, bytes.into()))
    }
}

fn vector_type(component: &Field) -> VectorType {
    match component.data_type() {
        arrow_schema::DataType::Float16 => VectorType::F16,
        _ => VectorType::F32,
    }
}

/// Components of float32 are split by byte, which makes random mantissas a seventh smaller under zstd and costs little;
/// those of float16 are not, since DuckDB reads no split ones. A dictionary or statistics of components would cost much
/// and tell nothing.
fn properties(schema: &SchemaRef, compression: Compression) -> WriterProperties {
    let codec = match compression {
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(1).expect("1 is a level")),
        Compression::Lz4 => Codec::LZ4_RAW,
        Compression::Snappy => Codec::SNAPPY,
        Compression::None => Codec::UNCOMPRESSED,
    };
    let halves = schema.field_with_name(schema::EMBEDDING).is_ok_and(|field| match field.data_type() {
        arrow_schema::DataType::FixedSizeList(component, _) => vector_type(component) == VectorType::F16,
        _ => false,
    });
    let plain = halves || compression == Compression::None;
    let encoding = if plain { Encoding::PLAIN } else { Encoding::BYTE_STREAM_SPLIT };
    let part = |name: &str| name.to_owned();
    let components = ColumnPath::new(vec![part(schema::EMBEDDING), part("list"), part(schema::COMPONENT)]);
    let hash = ColumnPath::new(vec![part(schema::TEXT_HASH)]);
    debug_assert!(schema.field_with_name(schema::EMBEDDING).is_ok());
    WriterProperties::builder()
        .set_created_by(concat!("gristmill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(codec)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        // The digest in the footer covers everything before the Parquet footer; page indexes would lie between.
        .set_offset_index_disabled(true)
        .set_column_encoding(components.clone(), encoding)
        .set_column_dictionary_enabled(components.clone(), false)
        .set_column_statistics_enabled(components, EnabledStatistics::None)
        .set_column_dictionary_enabled(hash.clone(), false)
        .set_column_statistics_enabled(hash, EnabledStatistics::None)
        .build()
}
